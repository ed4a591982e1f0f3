//! Sockets that a process is given when it starts: by a service manager, played by the shell, or by its predecessor.

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use trochus::net::{Handler, Inherited, Io, ListenOptions, Successor, ToAddresses, inherited};
use trochus::{Error, Runtime, rpc};

#[path = "support/process.rs"]
mod support;

use support::{PATIENCE, Watchdog, output};

/// What tells the child that it is one, and what it has to do.
const CHILD: &str = "TROCHUS_TEST_CHILD";

/// Says which of the descriptors from 3 to 9 are open.
const WHAT_IS_OPEN: &str = "for fd in 3 4 5 6 7 8 9; do [ ! -e /dev/fd/$fd ] || echo open: $fd; done";

/// Not a test by itself: the process that is given sockets.
#[test]
fn a_process_of_its_own() {
    match env::var(CHILD).as_deref() {
        Ok("tell") => tell(),
        Ok("serve") => serve(),
        Ok("fail") => process::exit(3),
        Ok("let_go") => {
            drop(inherited());
            println!("let go");
        }
        Ok("let_go_and_stay") => {
            drop(inherited());
            thread::sleep(Duration::from_secs(1800));
        }
        Ok("wait") => thread::sleep(PATIENCE),
        Ok("pass_on_through_a_child") => {
            // The variables are there as well; the process id is another one.
            assert!(this_program("tell").status().unwrap().success());
            inherited().unwrap().ready();
        }
        _ => {}
    }
}

fn tell() {
    let found = inherited();
    match &found {
        Ok(found) => {
            println!("\nfound {}", found.iter().count());
            found.iter().for_each(|(name, address)| println!("has {name:?} {address}"));
        }
        Err(error) => println!("\nerror: {error}"),
    }
    println!("again {}", inherited().unwrap().iter().count());
    // No process that it starts has them.
    Command::new("sh").args(["-c", WHAT_IS_OPEN]).status().unwrap();
    println!("end");
}

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

fn serve() {
    let mut found = inherited().unwrap();
    assert!(found.has_predecessor());
    // Those were its predecessor's.
    assert_eq!(env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LISTEN_")).count(), 0);
    let runtime = Runtime::builder().reactors(2).build().unwrap();
    let server = runtime.listen(found.take_or("echo", "127.0.0.1:1").unwrap(), |_| Echo).unwrap();
    assert!(found.is_empty() && found.take("echo").is_empty());
    found.ready();
    // Until the one that has started it is gone.
    let _ = std::io::stdin().read(&mut [0]);
    drop(server);
}

fn this_program(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "a_process_of_its_own", "--nocapture"]).env(CHILD, role);
    command
}

/// Becomes this program, as a service manager starts one: with two descriptors, 3 and 4, and what `variables` says.
fn activated(third: impl Into<OwnedFd>, fourth: impl Into<OwnedFd>, variables: &str) -> String {
    let script =
        format!("exec 3<&0 4<&2 0</dev/null 2>&1 5<&- 6<&- 7<&-; export {variables}; exec \"$0\" \"$@\"");
    let program = this_program("tell");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(program.get_program()).args(program.get_args()).env(CHILD, "tell");
    command.stdin(Stdio::from(third.into())).stderr(Stdio::from(fourth.into()));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let watchdog = Watchdog::over(&child);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    drop(watchdog);
    assert!(text.contains("again 0") && text.contains("\nend"), "{text}");
    text
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

const OURS: &str = "LISTEN_PID=$$ LISTEN_FDS=2";

#[test]
fn what_a_service_manager_passes_on_is_found_once_and_by_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (first, second) = (tcp(), UnixListener::bind(&path).unwrap());
    let address = first.local_addr().unwrap();
    let text = activated(first, second, &format!("{OURS} LISTEN_FDNAMES=web:admin"));
    assert!(text.contains("found 2\n") && !text.contains("open:"), "{text}");
    assert!(text.contains(&format!("has \"web\" {address}\n")), "{text}");
    assert!(text.contains(&format!("has \"admin\" unix:{}\n", path.display())), "{text}");
    // Without names, and only one of them: the other one is whose it was.
    let text = activated(tcp(), tcp(), "LISTEN_PID=$$ LISTEN_FDS=1");
    assert!(text.contains("found 1\nhas \"unknown\" 127.0.0.1:") && text.contains("open: 4\n"), "{text}");
    assert!(!text.contains("open: 3\n"), "{text}");
    let text = activated(tcp(), tcp(), &format!("{OURS} LISTEN_FDNAMES=:same"));
    assert!(text.contains("has \"\" 127") && text.contains("has \"same\" 127"), "{text}");
}

#[test]
fn what_was_passed_to_another_process_is_not_touched() {
    for others in ["LISTEN_PID=1 LISTEN_FDS=2", "LISTEN_PID=$$", "LISTEN_FDS=2", "LISTEN_PID=$$ LISTEN_FDS=0"]
    {
        let text = activated(tcp(), tcp(), others);
        assert!(text.contains("found 0\n") && text.contains("open: 3\nopen: 4\n"), "{others}: {text}");
    }
    // One that its parent does not know.
    let text = activated(tcp(), tcp(), "TROCHUS_PASSED=1:3:4=web");
    assert!(text.contains("found 0\n") && text.contains("open: 3\nopen: 4\n"), "{text}");
}

#[test]
fn what_the_variables_say_is_not_believed() {
    for (variables, says) in [
        ("LISTEN_PID=me LISTEN_FDS=2", "LISTEN_PID is wrong: \"me\""),
        ("LISTEN_PID=-1 LISTEN_FDS=2", "LISTEN_PID is wrong"),
        ("LISTEN_PID=99999999999999999999 LISTEN_FDS=2", "LISTEN_PID is wrong"),
        ("LISTEN_PID=$$ LISTEN_FDS=two", "LISTEN_FDS is wrong: \"two\""),
        ("LISTEN_PID=$$ LISTEN_FDS=", "LISTEN_FDS is wrong"),
        ("LISTEN_PID=$$ LISTEN_FDS=-2", "LISTEN_FDS is wrong"),
        ("LISTEN_PID=$$ LISTEN_FDS=4294967295", "LISTEN_FDS is wrong: there are no 4294967295"),
        ("LISTEN_PID=$$ LISTEN_FDS=2147483647", "LISTEN_FDS is wrong: there are no 2147483647"),
        ("LISTEN_PID=$$ LISTEN_FDS=2147483600", "descriptor 5 (unknown) cannot be served"),
        ("LISTEN_PID=$$ LISTEN_FDS=99999999999999999999", "LISTEN_FDS is wrong"),
        ("LISTEN_PID=$$ LISTEN_FDS=3", "descriptor 5 (unknown) cannot be served: "),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=one", "LISTEN_FDNAMES is wrong: it has 1 names for 2"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b:c", "LISTEN_FDNAMES is wrong: it has 3 names for 2"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=$(printf 'a:\\377')", "LISTEN_FDNAMES is wrong"),
        ("TROCHUS_PASSED=$PPID", "TROCHUS_PASSED is wrong: "),
        ("TROCHUS_PASSED=$PPID:3:4", "TROCHUS_PASSED is wrong: \"4\" names no socket"),
        ("TROCHUS_PASSED=$PPID:3:1=web", "TROCHUS_PASSED is wrong: 1 cannot be"),
        ("TROCHUS_PASSED=$PPID:3:-1=web", "TROCHUS_PASSED is wrong: -1 cannot be"),
        ("TROCHUS_PASSED=$PPID:3:77=web", "descriptor 77 (web) cannot be served"),
        ("TROCHUS_PASSED=$PPID:3:4=web:4=web", "descriptor 4 (web) cannot be served: this process did not"),
    ] {
        let text = activated(tcp(), tcp(), variables);
        assert!(
            text.contains(&format!("error: the environment's {says}")) || text.contains(says),
            "{variables}: {text}"
        );
        assert!(text.contains("\nerror: the environment's "), "{variables}: {text}");
    }
}

#[test]
fn what_is_no_listening_stream_socket_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tcp();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let file = File::create(folder.path().join("file")).unwrap();
    let mut wrong: Vec<(OwnedFd, &str)> =
        vec![(file.into(), ""), (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "it is no stream socket")];
    if cfg!(target_os = "linux") {
        wrong.push((connected.into(), "it does not listen"));
        wrong.push((bound.into(), "it does not listen"));
    }
    for (wrong, why) in wrong {
        let text = activated(tcp(), wrong, &format!("{OURS} LISTEN_FDNAMES=good:bad"));
        assert!(text.contains(&format!("descriptor 4 (bad) cannot be served: {why}")), "{text}");
    }
}

fn asks(address: &trochus::net::Address) {
    let trochus::net::Address::Tcp(address) = address else { panic!("{address}") };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_successor_serves_on_the_same_sockets() {
    let runtime = Runtime::builder().reactors(3).build().unwrap();
    let server = runtime.listen("127.0.0.1:0", |_| Echo).unwrap();
    let address = server.local_addr().clone();
    let mut command = this_program("serve");
    command.stdin(Stdio::piped()).env("LISTEN_PID", "1").env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "a:b");
    let successor = Successor::start(command, [("echo", server.sockets().unwrap())]).unwrap();
    let id = successor.id();
    let mut successor = successor.wait_until_ready(PATIENCE).unwrap();
    assert_eq!(successor.id(), id);
    server.stop(PATIENCE).unwrap();
    runtime.shutdown(PATIENCE).unwrap();
    (0..20).for_each(|_| asks(&address));
    successor.kill().unwrap();
    successor.wait().unwrap();
    let trochus::net::Address::Tcp(address) = address else { panic!("{address}") };
    // Nobody else has them; what a ring held, the kernel lets go of soon.
    let start = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(start.elapsed() < PATIENCE, "somebody still listens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_successor_that_is_not_ready_is_an_error_that_says_why() {
    let sockets = || [("echo", [tcp()])];
    let start = |role| Successor::start(this_program(role), sockets()).unwrap();
    let error = start("fail").wait_until_ready(PATIENCE).unwrap_err().to_string();
    assert!(error.contains("gave up before it was ready (exit status: 3)"), "{error}");
    // It has its time to say why, and ends by itself.
    let error = start("let_go").wait_until_ready(PATIENCE).unwrap_err().to_string();
    assert!(error.contains("gave up before it was ready (exit status: 0)"), "{error}");
    // One that does not is not waited for until the whole limit is over.
    let staying = start("let_go_and_stay");
    let id = staying.id();
    let error = staying.wait_until_ready(Duration::MAX).unwrap_err().to_string();
    assert!(error.contains("gave up before it was ready (signal: 9"), "{error}");
    assert!(is_gone(id));
    let waiting = start("wait");
    let id = waiting.id();
    let error = waiting.wait_until_ready(Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("not ready within 50ms"), "{error}");
    assert!(is_gone(id));
    let dropped = start("wait");
    let id = dropped.id();
    drop(dropped);
    assert!(is_gone(id));
    let error = Successor::start(Command::new("/there/is/no/such/program"), sockets()).unwrap_err();
    assert!(
        matches!(&error, Error::System { source, .. } if source.kind() == std::io::ErrorKind::NotFound),
        "{error}"
    );
    for name in ["", "a:b", "line\n", &"x".repeat(256)] {
        let error = Successor::start(this_program("fail"), [(name, [tcp()])]).unwrap_err().to_string();
        assert!(error.contains("cannot be the name of a socket"), "{error}");
    }
    let none = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Successor::start(this_program("fail"), [("echo", [none])]).unwrap_err().to_string();
    assert!(error.contains("it is no stream socket"), "{error}");
}

fn is_gone(id: u32) -> bool {
    let id = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::test_kill_process(id).is_err()
}

#[test]
fn nobody_waits_for_a_successor_on_a_reactors_thread() {
    let runtime = Runtime::builder().reactors(1).build().unwrap();
    let successor = Successor::start(this_program("wait"), [("echo", [tcp()])]).unwrap();
    let id = successor.id();
    let outcome =
        runtime.run_on(0, move |_| successor.wait_until_ready(PATIENCE).map(|child| child.id())).wait();
    assert!(matches!(outcome, Ok(Err(Error::OnReactorThread { .. }))), "{outcome:?}");
    assert!(is_gone(id));
}

#[test]
fn only_the_successor_has_the_sockets() {
    // Not even a process that it starts with the same variables.
    let mut command = this_program("pass_on_through_a_child");
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let successor = Successor::start(command, [("echo", [tcp()])]).unwrap();
    let mut successor = successor.wait_until_ready(PATIENCE).unwrap();
    successor.wait().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains("found 0\n"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_who_is_started_at_the_same_moment_has_the_sockets() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let listener = tcp();
    let file = format!("/proc/self/fd/{}", listener.as_raw_fd());
    let socket = format!("socket:[{}]", std::fs::metadata(file).unwrap().ino());
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystanders = scope.spawn(|| {
            let mut started = 0;
            while !ends.load(Ordering::SeqCst) || started < 10 {
                let told = output(Command::new("ls").args(["-l", "/proc/self/fd"]));
                let told = String::from_utf8(told.stdout).unwrap();
                assert!(told.contains("pipe:[") && !told.contains(&socket), "{told}");
                started += 1;
            }
        });
        for _ in 0..100 {
            let sockets = [("echo", [listener.try_clone().unwrap()])];
            drop(Successor::start(Command::new("true"), sockets).unwrap());
        }
        ends.store(true, Ordering::SeqCst);
        bystanders.join().unwrap();
    });
}

#[test]
fn servers_of_all_kinds_take_sockets_in_the_place_of_addresses() {
    let runtime = Runtime::builder().reactors(2).build().unwrap();
    let listener = tcp();
    let address = listener.local_addr().unwrap();
    let sockets = vec![OwnedFd::from(listener)];
    let serve = |n: i32, reply: rpc::Reply<i32>| reply.send(n + 1);
    let server = rpc::Server::bind(&runtime, sockets, trochus::codec::Int32, serve).unwrap();
    assert_eq!(server.local_addrs(), address.to_addresses().unwrap());
    let client = rpc::Client::connect(&runtime, address, trochus::codec::Int32).unwrap();
    assert_eq!(client.call(41).wait().unwrap(), 42);
    // Of an rpc server they can be had as well.
    let copies = server.sockets().unwrap();
    drop(server);
    let server = runtime.listen_with(&ListenOptions::new(), copies, |_| Echo).unwrap();
    asks(server.local_addr());
    assert!(Inherited::default().take_or("none", "127.0.0.1:0").is_ok());
    assert!(Inherited::default().take_or("none", "nonsense").is_err());
    let none: Vec<OwnedFd> = Vec::new();
    assert!(runtime.listen(none, |_| Echo).is_err());
}

#[test]
fn each_of_several_addresses_has_all_reactors() {
    let runtime = Runtime::builder().reactors(2).build().unwrap();
    let (one, other) = (tcp(), tcp());
    let addresses = [one.local_addr().unwrap(), other.local_addr().unwrap()];
    let server = runtime.listen_on(&ListenOptions::new(), [one, other], |_| Echo).unwrap();
    assert_eq!(server.local_addrs(), addresses.to_addresses().unwrap());
    for (round, address) in addresses.iter().enumerate() {
        (0..4).for_each(|_| asks(&(*address).into()));
        // One socket each: it hands them round.
        let opened: Vec<u64> = runtime.metrics_by_reactor().iter().map(|of| of.connections_opened).collect();
        let each = 2 * (round as u64 + 1);
        assert_eq!(opened, [each, each]);
    }
}
