//! Where io_uring is missing, forbidden or starved: what `Auto` does, what it says, and what a backend by name says.
//!
//! Restrictions belong to a whole process, so each case is this program once more, with [`CASE`] set. A child restricts
//! itself, starts a runtime, and echoes over it. What it reports is on its standard output; its standard
//! error is left to the library, whose one line is a part of what is tested.

use libtest_mimic::{Arguments, Failed, Trial};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, ExitCode};
use std::time::Duration;
use trochus::net::{Handler, Io};
use trochus::{Backend, Runtime};

#[cfg(feature = "tracing")]
#[path = "support/subscriber.rs"]
mod subscriber;

/// In a child: the restriction to live under.
const CASE: &str = "TROCHUS_NO_URING_CASE";
/// In a child: the backend to ask for.
const ASKED: &str = "TROCHUS_NO_URING_ASKED";

fn main() -> ExitCode {
    if let Ok(case) = std::env::var(CASE) {
        #[cfg(feature = "tracing")]
        subscriber::install();
        child(&case);
        return ExitCode::SUCCESS;
    }
    let trial = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let trials = vec![
        trial("the_environment_names_the_backend", the_environment_names_the_backend),
        trial("the_environment_names_no_backend", the_environment_names_no_backend),
    ];
    #[cfg(target_os = "linux")]
    let trials = trials.into_iter().chain([
        trial("the_machines_own_settings", linux::the_machines_own_settings),
        trial("the_machines_own_settings_without_privileges", linux::without_privileges),
        trial("seccomp_answers_eperm", linux::seccomp_answers_eperm),
        trial("seccomp_answers_enosys", linux::seccomp_answers_enosys),
        trial("seccomp_and_io_uring_by_name", linux::seccomp_and_io_uring_by_name),
        trial("hardly_any_locked_memory", linux::hardly_any_locked_memory),
        trial("no_descriptor_for_a_ring", linux::no_descriptor_for_a_ring),
        trial("no_descriptor_at_all", linux::no_descriptor_at_all),
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().collect()).exit_code()
}

fn the_environment_names_the_backend() {
    for backend in Backend::available() {
        let said = Said::of(Command::new(this_program()).env("TROCHUS_BACKEND", backend.to_string()), "none");
        assert_eq!(said.works_on(), Some(backend), "{said:?}");
        assert!(said.log.is_empty(), "nothing was passed over, but: {said:?}");
    }
}

fn the_environment_names_no_backend() {
    let said = Said::of(Command::new(this_program()).env("TROCHUS_BACKEND", "kqueue"), "none");
    assert_eq!(said.works_on(), None, "{said:?}");
    assert!(
        said.result.contains("there is no backend \"kqueue\": choose auto, io_uring or fallback"),
        "{said:?}"
    );
}

/// What a child said.
#[derive(Debug)]
struct Said {
    result: String,
    log: Vec<String>,
}

impl Said {
    fn of(command: &mut Command, case: &str) -> Self {
        let output = command.env(CASE, case).output().expect("this program starts");
        assert!(output.status.success(), "{output:?}");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { result: text(output.stdout), log: text(output.stderr).lines().map(str::to_owned).collect() }
    }

    /// The backend over which it echoed; `None` if it could not start.
    fn works_on(&self) -> Option<Backend> {
        self.result.trim().strip_prefix("echoed over ").map(|name| name.parse().expect("a backend's name"))
    }
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("this program has a path")
}

/// Restricts this process, tries, and says what came of it.
fn child(case: &str) {
    #[cfg(target_os = "linux")]
    let lift = linux::restrict(case);
    #[cfg(not(target_os = "linux"))]
    assert_eq!(case, "none");
    let asked = std::env::var(ASKED).map_or(Backend::Auto, |name| name.parse().expect("a backend's name"));
    // Of two reactors one might find the descriptors that the other one lacks.
    let reactors = if case.ends_with("descriptors") { 1 } else { 2 };
    match Runtime::builder().backend(asked).reactors(reactors).build() {
        Ok(runtime) => {
            #[cfg(target_os = "linux")]
            lift();
            assert!(runtime.backend() != Backend::Auto);
            echo(&runtime);
            println!("echoed over {}", runtime.backend());
            for index in 0..reactors {
                let info = runtime.reactor_info(index);
                // Whoever runs on the fallback without having asked for it can say why.
                let passed_over = asked == Backend::Auto
                    && info.backend == Backend::Fallback
                    && std::env::var("TROCHUS_BACKEND").map_or(true, |name| name.is_empty());
                assert_eq!(info.backend_reason.contains("does not work here"), passed_over, "{info:?}");
            }
        }
        Err(error) => println!("{error}"),
    }
}

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

/// More than one connection, so that every reactor most likely has one, and more than one buffer.
fn echo(runtime: &Runtime) {
    let server = runtime.listen("127.0.0.1:0", |_peer| Echo).unwrap();
    let address = server.local_addr().to_string();
    for number in 0..8u8 {
        let message: Vec<u8> = (0..600_000u32).map(|at| (at % 251) as u8 ^ number).collect();
        let mut client = TcpStream::connect(&address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut output = client.try_clone().unwrap();
        let (sent, answer) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                output.write_all(&message)?;
                output.shutdown(Shutdown::Write)
            });
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            (sending.join().unwrap(), answer)
        });
        sent.unwrap();
        assert!(answer == message, "connection {number}: {} of {} bytes", answer.len(), message.len());
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{ASKED, Said, this_program};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    use std::collections::BTreeMap;
    use std::os::fd::AsRawFd;
    use std::process::Command;
    use trochus::Backend;

    /// Puts this process into the case. What is returned takes back what would keep it from serving.
    pub(super) fn restrict(case: &str) -> Box<dyn FnOnce()> {
        match case {
            "none" => {}
            "no privileges" => drop_privileges(),
            "EPERM" => answer_io_uring_setup_with(libc::EPERM),
            "ENOSYS" => answer_io_uring_setup_with(libc::ENOSYS),
            "no locked memory" => {
                drop_privileges();
                limit(Resource::Memlock, 0);
            }
            "1 of the descriptors" => return leave_descriptors(1),
            "3 of the descriptors" => return leave_descriptors(3),
            _ => panic!("there is no case {case:?}"),
        }
        Box::new(|| {})
    }

    /// Root is exempt from limits and may use io_uring where others may not; from here on nobody is.
    fn drop_privileges() {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).unwrap();
    }

    fn limit(resource: Resource, current: u64) {
        let maximum = getrlimit(resource).maximum;
        setrlimit(resource, Rlimit { current: Some(current), maximum }).unwrap();
    }

    /// As containers' default profiles do.
    fn answer_io_uring_setup_with(number: i32) {
        let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
        let (others, this) = (SeccompAction::Allow, SeccompAction::Errno(number as u32));
        let machine = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, others, this, machine).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        apply_filter(&program).unwrap();
    }

    /// So many can be opened from here on.
    fn leave_descriptors(count: u64) -> Box<dyn FnOnce()> {
        let before = getrlimit(Resource::Nofile);
        let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        limit(Resource::Nofile, lowest_free as u64 + count);
        Box::new(move || setrlimit(Resource::Nofile, before).unwrap())
    }

    fn child(case: &str) -> Said {
        Said::of(Command::new(this_program()).env_remove("TROCHUS_BACKEND"), case)
    }

    fn child_that_asks_for(backend: Backend, case: &str) -> Said {
        Said::of(Command::new(this_program()).env(ASKED, backend.to_string()), case)
    }

    #[track_caller]
    fn assert_works_and_is_silent(said: &Said) {
        assert_eq!(said.works_on(), Some(Backend::IoUring), "{said:?}");
        assert!(said.log.is_empty(), "{said:?}");
    }

    /// It works on the fallback, and said once why, and what to do about it.
    #[track_caller]
    fn assert_falls_back(said: &Said, cause: &str, remedy: &str) {
        assert_eq!(said.works_on(), Some(Backend::Fallback), "{said:?}");
        let [line] = &said.log[..] else { panic!("not one line: {said:?}") };
        assert!(line.starts_with("trochus: io_uring is not used: "), "{line}");
        assert!(line.contains(cause) && line.contains(remedy), "{cause:?} or {remedy:?} is missing: {line}");
    }

    fn io_uring_disabled() -> Option<u8> {
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
    }

    pub(super) fn the_machines_own_settings() {
        let said = child("none");
        let is_root = rustix::process::geteuid().is_root();
        match io_uring_disabled() {
            Some(1) if !is_root => assert_disabled(&said, 1),
            Some(2) => assert_disabled(&said, 2),
            _ if Backend::available() == [Backend::Fallback] => assert_falls_back(&said, "", ""),
            _ => assert_works_and_is_silent(&said),
        }
    }

    /// `kernel.io_uring_disabled=1` is for these.
    pub(super) fn without_privileges() {
        let said = child("no privileges");
        match io_uring_disabled() {
            Some(disabled @ 1..) => assert_disabled(&said, disabled),
            _ => assert_eq!(said.works_on(), Some(Backend::available()[0]), "{said:?}"),
        }
    }

    #[track_caller]
    fn assert_disabled(said: &Said, disabled: u8) {
        let cause = format!("kernel.io_uring_disabled is {disabled}");
        assert_falls_back(said, &cause, "`sysctl kernel.io_uring_disabled=0`");
        let by_name = child_that_asks_for(Backend::IoUring, "no privileges");
        assert_eq!(by_name.works_on(), None, "{by_name:?}");
        assert!(by_name.result.contains(&cause), "{by_name:?}");
    }

    pub(super) fn seccomp_answers_eperm() {
        let cause = if io_uring_disabled().unwrap_or(0) > 0 { "Operation not permitted" } else { "seccomp" };
        assert_falls_back(&child("EPERM"), cause, "allow");
    }

    pub(super) fn seccomp_answers_enosys() {
        assert_falls_back(&child("ENOSYS"), "seccomp", "allow io_uring_setup");
    }

    pub(super) fn seccomp_and_io_uring_by_name() {
        for (case, cause) in [("EPERM", "Operation not permitted"), ("ENOSYS", "not implemented")] {
            let said = child_that_asks_for(Backend::IoUring, case);
            assert_eq!(said.works_on(), None, "{said:?}");
            assert!(said.result.starts_with("cannot use the backend io_uring: "), "{said:?}");
            assert!(said.result.contains(cause) && said.result.contains("allow"), "{said:?}");
            assert!(said.log.is_empty(), "an error is told once: {said:?}");
        }
    }

    /// Kernels differ in whether a ring counts as locked memory. Whether it does shows by itself: either all is well or the
    /// limit is named.
    pub(super) fn hardly_any_locked_memory() {
        let said = child("no locked memory");
        if io_uring_disabled().unwrap_or(0) > 0 || Backend::available() == [Backend::Fallback] {
            assert_eq!((said.works_on(), said.log.len()), (Some(Backend::Fallback), 1), "{said:?}");
        } else if said.works_on() == Some(Backend::IoUring) {
            assert_works_and_is_silent(&said);
        } else {
            assert_falls_back(&said, "the limit on locked memory", "`ulimit -l`");
            let by_name = child_that_asks_for(Backend::IoUring, "no locked memory");
            assert!(by_name.result.contains("`ulimit -l`"), "{by_name:?}");
        }
    }

    /// Enough for a selector and its waker. A ring and its waker need two more for a moment, to find out whether a receive
    /// stays armed, where there are rings of buffers (Linux 5.19).
    pub(super) fn no_descriptor_for_a_ring() {
        let said = child("3 of the descriptors");
        let best = trochus::Runtime::builder().reactors(1).build().unwrap();
        if best.backend() == Backend::IoUring && !best.capabilities().provided_buffers {
            assert_works_and_is_silent(&said);
        } else if Backend::available() == [Backend::Fallback] {
            assert_eq!((said.works_on(), said.log.len()), (Some(Backend::Fallback), 1), "{said:?}");
        } else {
            assert_falls_back(&said, "out of descriptors", "`ulimit -n`");
        }
    }

    pub(super) fn no_descriptor_at_all() {
        let said = child("1 of the descriptors");
        assert_eq!(said.works_on(), None, "{said:?}");
        assert!(said.result.starts_with("cannot use the backend fallback: "), "{said:?}");
        assert!(said.result.contains("`ulimit -n`"), "{said:?}");
    }
}
