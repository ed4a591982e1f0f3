//! How the backend is chosen. The environment belongs to the whole process, so each of these asks a child process: this
//! program once more.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};
use trochus::{Backend, Error, Reactor, Runtime};

/// Set in a child process: what it shall ask for.
const ASKED: &str = "TROCHUS_CONFORMANCE_CHILD";
/// Set in a child process that shall have no io_uring.
#[cfg(target_os = "linux")]
const FORBIDDEN: &str = "TROCHUS_CONFORMANCE_NO_IO_URING";

/// Set in a child process that cannot write to standard error, in which a handler panics.
#[cfg(target_os = "linux")]
const UNLOGGABLE: &str = "TROCHUS_CONFORMANCE_UNLOGGABLE";

/// Set in a child process in which a limit closes connections.
const LIMITED: &str = "TROCHUS_CONFORMANCE_LIMITED";

/// Set in a child process that sends signals to itself.
const SIGNALLED: &str = "TROCHUS_CONFORMANCE_SIGNALLED";

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_environment_decides_what_auto_is", the_environment_decides_what_auto_is),
    ("a_name_in_the_program_outranks_the_environment", a_name_in_the_program_outranks_the_environment),
    ("who_is_embedded_has_the_fallback_unless_a_backend_is_named", embedded_prefers_the_fallback),
    ("a_name_that_is_none_is_an_error", a_name_that_is_none_is_an_error),
    ("a_limit_that_closes_connections_is_logged_once_with_a_peer", a_limit_is_logged),
    ("a_signal_between_two_waits_is_told_by_the_next_one", a_signal_between_two_waits),
    ("who_asks_what_there_is_is_not_interrupted", who_asks_what_there_is_is_not_interrupted),
    #[cfg(target_os = "linux")]
    ("a_panic_ends_one_connection_though_nothing_can_be_logged", a_panic_that_cannot_be_logged),
    #[cfg(target_os = "linux")]
    ("features_are_switched_off_by_name", features_are_switched_off_by_name),
    #[cfg(target_os = "linux")]
    ("where_io_uring_is_forbidden_auto_falls_back_and_says_why", forbidden_auto_falls_back),
    #[cfg(target_os = "linux")]
    ("where_io_uring_is_forbidden_asking_for_it_is_an_error", forbidden_by_name_is_an_error),
];

/// Builds a runtime, says what came of it, and ends the process; `None` in a process that is no such child.
pub(crate) fn run_as_child() -> Option<ExitCode> {
    let asked: Backend = std::env::var(ASKED).ok()?.parse().expect("a backend's name");
    #[cfg(feature = "tracing")]
    crate::subscriber::install();
    #[cfg(target_os = "linux")]
    if std::env::var_os(FORBIDDEN).is_some() {
        crate::seccomp::forbid_io_uring().expect("a filter for system calls");
    }
    #[cfg(target_os = "linux")]
    if std::env::var_os(UNLOGGABLE).is_some() {
        panic_once(asked);
    }
    if std::env::var_os(SIGNALLED).is_some() {
        wait_for_own_signals();
        return Some(ExitCode::SUCCESS);
    }
    if std::env::var_os(LIMITED).is_some() {
        exceed_a_limit(asked);
    }
    match Runtime::builder().backend(asked).reactors(2).build() {
        Ok(runtime) => {
            println!("{} {:?}", runtime.backend(), runtime.capabilities());
            let reactor = Reactor::builder().backend(asked).build().unwrap();
            println!("because {}", reactor.backend_reason());
            // In whichever order it is said.
            let before = Reactor::builder().backend(asked).embedded().build().unwrap();
            let behind = Reactor::builder().embedded().backend(asked).build().unwrap();
            for (reactor, order) in [(before, "before"), (behind, "behind")] {
                println!("{order} embedded {} because {}", reactor.backend(), reactor.backend_reason());
            }
        }
        Err(error) => {
            let kind = match error {
                Error::BackendUnavailable { .. } => "unavailable",
                Error::UnknownBackend(_) => "unknown backend",
                Error::UnknownFeature(_) => "unknown feature",
                _ => "other",
            };
            println!("{kind}: {error}");
        }
    }
    Some(ExitCode::SUCCESS)
}

/// What a child with these variables says on standard output, and what it logs.
fn ask(asked: Backend, variables: &[(&str, &str)]) -> (String, String) {
    let Output { status, stdout, stderr } = child(asked, variables).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    (String::from_utf8(stdout).unwrap(), stderr)
}

fn child(asked: Backend, variables: &[(&str, &str)]) -> Command {
    // Without `/proc`, the name that it was started by has to do.
    let program = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
    let mut child = Command::new(program.expect("a program has a name"));
    child.env_remove("TROCHUS_BACKEND").env_remove("TROCHUS_IO_URING_WITHOUT");
    child.env(ASKED, asked.to_string()).envs(variables.iter().copied());
    child
}

#[track_caller]
fn assert_says(answer: &str, beginning: &str) {
    assert!(answer.starts_with(beginning), "expected {beginning:?}, got {answer:?}");
}

fn the_environment_decides_what_auto_is() {
    let best = Backend::available()[0].to_string();
    assert_says(&ask(Backend::Auto, &[]).0, &best);
    assert_says(&ask(Backend::Auto, &[("TROCHUS_BACKEND", "")]).0, &best);
    assert_says(&ask(Backend::Auto, &[("TROCHUS_BACKEND", "auto")]).0, &best);
    for backend in Backend::available() {
        let name = backend.to_string();
        let (answer, _) = ask(Backend::Auto, &[("TROCHUS_BACKEND", &name)]);
        assert_says(&answer, &name);
        assert!(answer.contains("because TROCHUS_BACKEND asks for it"), "{answer}");
    }
}

fn a_name_in_the_program_outranks_the_environment() {
    for backend in Backend::available() {
        for other in ["auto", "io_uring", "fallback"] {
            assert_says(&ask(backend, &[("TROCHUS_BACKEND", other)]).0, &backend.to_string());
        }
    }
}

fn embedded_prefers_the_fallback() {
    let best = Backend::available()[0].to_string();
    for environment in [&[][..], &[("TROCHUS_BACKEND", "auto")], &[("TROCHUS_BACKEND", "")]] {
        let (answer, _) = ask(Backend::Auto, environment);
        assert!(
            answer.contains("before embedded fallback because it is embedded, and with io_uring"),
            "{answer}"
        );
        assert!(answer.contains(&format!("behind embedded {best} because ")), "{answer}");
    }
    for backend in Backend::available() {
        let name = backend.to_string();
        for (asked, environment, whose) in [
            (Backend::Auto, name.as_str(), "TROCHUS_BACKEND"),
            (backend, "fallback", "the builder"),
            (backend, "", "the builder"),
        ] {
            let (answer, _) = ask(asked, &[("TROCHUS_BACKEND", environment)]);
            for order in ["before", "behind"] {
                let line = format!("{order} embedded {name} because {whose} asks for it");
                assert!(answer.contains(&line), "{answer}");
            }
        }
    }
}

fn a_name_that_is_none_is_an_error() {
    let (answer, _) = ask(Backend::Auto, &[("TROCHUS_BACKEND", "kqueue")]);
    assert_says(
        &answer,
        "unknown backend: there is no backend \"kqueue\": choose auto, io_uring or fallback",
    );
    let (answer, _) = ask(Backend::Auto, &[("TROCHUS_IO_URING_WITHOUT", "buffer_ring,sqpoll")]);
    assert_says(&answer, "unknown feature: there is no io_uring feature \"sqpoll\"");
}

/// A handler panics; the reactor's next connection is served.
#[cfg(target_os = "linux")]
fn panic_once(backend: Backend) {
    use std::io::{Read, Write};
    let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
    let (_, recorder) = crate::probe::log();
    let server = runtime
        .listen("127.0.0.1:0", move |_| {
            recorder.probe().bytes(|io, bytes| {
                assert!(bytes != b"panic");
                io.write(bytes);
                bytes.len()
            })
        })
        .unwrap();
    for (request, answer) in [(&b"panic"[..], &b""[..]), (b"hello", b"hello")] {
        let mut stream = std::net::TcpStream::connect(server.local_addr().to_string()).unwrap();
        stream.write_all(request).unwrap();
        let mut received = vec![0; answer.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, answer);
    }
}

/// The disk that the log goes to is full.
#[cfg(target_os = "linux")]
fn a_panic_that_cannot_be_logged() {
    for backend in Backend::available() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let status =
            child(backend, &[(UNLOGGABLE, "1")]).stdout(std::process::Stdio::null()).stderr(full).status();
        assert!(status.unwrap().success(), "{backend}");
    }
}

#[cfg(target_os = "linux")]
fn features_are_switched_off_by_name() {
    if !Backend::available().contains(&Backend::IoUring) {
        return eprintln!("this machine has no io_uring, so there is nothing to switch off");
    }
    let without = |names| ask(Backend::IoUring, &[("TROCHUS_IO_URING_WITHOUT", names)]).0;
    let answer = without("");
    assert_says(&answer, "io_uring");
    for (feature, shown) in [
        ("multishot_receive", "multishot_receive"),
        ("multishot_accept", "multishot_accept"),
        ("buffer_ring", "provided_buffers"),
        ("defer_taskrun", "deferred_task_work"),
    ] {
        let answer = without(feature);
        assert!(answer.contains(&format!("{shown}: false")), "{answer}");
    }
}

#[cfg(target_os = "linux")]
fn forbidden_auto_falls_back() {
    let (answer, log) = ask(Backend::Auto, &[(FORBIDDEN, "1")]);
    assert_says(&answer, "fallback");
    assert_eq!(log.matches("io_uring is not used").count(), 1, "once, though there are two reactors: {log}");
    assert!(log.contains("seccomp") || log.contains("io_uring_disabled"), "{log}");
    // Who asks the reactor is told as well.
    let reason = answer.lines().find(|line| line.starts_with("because")).unwrap();
    assert_says(reason, "because io_uring does not work here: ");
    assert!(reason.contains("seccomp") || reason.contains("io_uring_disabled"), "{reason}");
}

#[cfg(target_os = "linux")]
fn forbidden_by_name_is_an_error() {
    let (answer, _) = ask(Backend::IoUring, &[(FORBIDDEN, "1")]);
    assert_says(&answer, "unavailable: cannot use the backend io_uring");
    assert!(answer.contains("seccomp") || answer.contains("io_uring_disabled"), "{answer}");
    let (answer, log) = ask(Backend::Fallback, &[(FORBIDDEN, "1")]);
    assert_says(&answer, "fallback");
    assert!(log.is_empty(), "whoever asks for the fallback need not be told why it is used: {log}");
}

/// Not even later: the kernel tells the thread that had a ring of its end.
fn who_asks_what_there_is_is_not_interrupted() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    for _ in 0..20 {
        assert!(!Backend::available().is_empty());
        let waited = socket.recv(&mut [0]).unwrap_err();
        assert_ne!(waited.kind(), std::io::ErrorKind::Interrupted);
    }
}

/// Three peers send more than a handler that consumes nothing may leave.
fn exceed_a_limit(backend: Backend) {
    struct Greedy;
    impl trochus::net::Handler for Greedy {
        fn on_bytes(&mut self, _io: &mut trochus::net::Io<'_>, _bytes: &[u8]) -> usize {
            0
        }
    }
    let runtime = Runtime::builder().backend(backend).reactors(2).build().unwrap();
    let stream = trochus::net::StreamOptions::new().input_limit(10);
    let options = trochus::net::ListenOptions::new().stream(stream);
    let server = runtime.listen_with(&options, "127.0.0.1:0", |_| Greedy).unwrap();
    for _ in 0..3 {
        let peer = crate::ground::Peer::connect(server.local_addr());
        peer.send(&[7; 11]);
        peer.sees_the_end();
    }
    runtime.shutdown(crate::accounts::DEADLINE).unwrap();
}

fn a_limit_is_logged() {
    for backend in Backend::available() {
        let (_, log) = ask(backend, &[(LIMITED, "1")]);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a limit closed")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains("127.0.0.1:") && lines[0].contains("the limit is 10"), "{log}");
    }
}

/// Each comes while nobody waits.
fn wait_for_own_signals() {
    use rustix::process::{Signal as Sent, getpid, kill_process};
    use trochus::net::{Signal, keep_signals, wait_for_interrupt, wait_for_signal};
    let send = |signal| kill_process(getpid(), signal).unwrap();
    keep_signals().unwrap();
    keep_signals().unwrap();
    for _ in 0..2 {
        send(Sent::HUP);
        assert_eq!(wait_for_signal().unwrap(), Signal::Reload);
    }
    // To stop comes first, and the other one is not forgotten.
    send(Sent::HUP);
    send(Sent::TERM);
    assert_eq!(wait_for_signal().unwrap(), Signal::Stop);
    assert_eq!(wait_for_signal().unwrap(), Signal::Reload);
    send(Sent::INT);
    wait_for_interrupt().unwrap();
    println!("all were told");
}

fn a_signal_between_two_waits() {
    let (answer, _) = ask(Backend::Auto, &[(SIGNALLED, "1")]);
    assert_says(&answer, "all were told");
}
