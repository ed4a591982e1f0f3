//! The examples that write to many connections, run as a user would, with clients that are plain sockets.

use crossbeam_channel::Receiver;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Server, backends, output};

/// One test at a time: who reads fast and who does not is what these are about, so they are not to wait for each other's processors.
static TURN: Mutex<()> = Mutex::new(());

fn chat(backend: &str, reactors: usize, patience: &str) -> Server {
    let mut command = example("chat");
    command.args(["--listen", "127.0.0.1:0", "--backend", backend, "--patience", patience]);
    command.args(["--reactors", &reactors.to_string()]);
    Server::start(command)
}

/// What comes in at a member.
enum Heard {
    Line(String),
    /// The end of the stream, or why there is none.
    End(Result<(), ErrorKind>),
}

/// A member that reads all the time.
struct Member {
    stream: TcpStream,
    heard: Receiver<Heard>,
    name: String,
}

impl Member {
    fn join(server: &Server) -> Self {
        let stream = connect(server);
        Member::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        let (send, heard) = crossbeam_channel::unbounded();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        thread::spawn(move || {
            loop {
                let mut line = String::new();
                let heard = match reader.read_line(&mut line) {
                    Ok(0) => Heard::End(Ok(())),
                    Ok(_) => Heard::Line(line.trim_end_matches('\n').to_owned()),
                    Err(error) => Heard::End(Err(error.kind())),
                };
                let is_end = matches!(heard, Heard::End(_));
                if send.send(heard).is_err() || is_end {
                    return;
                }
            }
        });
        let mut member = Member { stream, heard, name: String::new() };
        let line = member.line();
        member.name =
            line.strip_prefix("* you are ").unwrap_or_else(|| panic!("`{line}` names nobody")).to_owned();
        assert!(member.line().starts_with("* you are in lobby"));
        member
    }

    /// So many members, who know of each other.
    fn several(server: &Server, count: usize) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..count {
            let new = Member::join(server);
            let here = format!("* {} is here", new.name);
            members.iter().for_each(|member| assert_eq!(member.line(), here));
            // What others did before comes to its reactor when it comes.
            while new.who().len() <= members.len() {}
            members.push(new);
        }
        members
    }

    fn say(&self, line: &str) {
        (&self.stream).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Who is in its room, as far as its reactor knows. Passes over what comes before the answer.
    fn who(&self) -> Vec<String> {
        self.say("/who");
        loop {
            if let Some((_, names)) = self.line().split_once(" has ") {
                return names.split(", ").map(str::to_owned).collect();
            }
        }
    }

    fn heard(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{} hears nothing", self.name))
    }

    fn line(&self) -> String {
        match self.heard() {
            Heard::Line(line) => line,
            Heard::End(end) => panic!("{} is at the end: {end:?}", self.name),
        }
    }

    /// All that still comes, and how it ends.
    fn rest(&self) -> (Vec<String>, Result<(), ErrorKind>) {
        let mut lines = Vec::new();
        loop {
            match self.heard() {
                Heard::Line(line) => lines.push(line),
                Heard::End(end) => return (lines, end),
            }
        }
    }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn with_each_chat(patience: &str, test: impl Fn(Server)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in backends() {
        for reactors in [1, 2] {
            test(chat(&backend, reactors, patience));
        }
    }
}

fn stop(server: Server, members: &[Member]) {
    thread::scope(|scope| {
        for member in members {
            scope.spawn(|| {
                let (lines, end) = member.rest();
                assert_eq!(lines, ["* the chat ends, goodbye"], "{}", member.name);
                assert_eq!(end, Ok(()), "{}", member.name);
                // Now the server need not wait for it.
                let _ = member.stream.shutdown(Shutdown::Both);
            });
        }
        let (succeeded, text) = server.stop();
        assert!(succeeded && text.contains(&format!("{} members left", members.len())), "{text}");
        assert!(text.contains(", 0 were cut off"), "{text}");
    });
}

#[test]
fn chat_brings_every_line_to_everybody_in_order() {
    const LINES: usize = 300;
    with_each_chat("60", |server| {
        // So many that with two reactors both have some.
        let members = Member::several(&server, 10);
        for number in 0..LINES {
            members.iter().for_each(|member| member.say(&format!("line {number}")));
        }
        for listener in &members {
            let mut next: Vec<usize> = vec![0; members.len()];
            for _ in 0..LINES * (members.len() - 1) {
                let line = listener.line();
                let (name, said) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
                let speaker = members.iter().position(|member| member.name == name).unwrap();
                assert_eq!(said, format!("line {}", next[speaker]), "of {name} at {}", listener.name);
                next[speaker] += 1;
            }
            let expected = members.iter().map(|member| if member.name == listener.name { 0 } else { LINES });
            assert_eq!(next, expected.collect::<Vec<_>>());
        }
        stop(server, &members);
    });
}

#[test]
fn chat_tells_who_comes_goes_and_is_renamed() {
    with_each_chat("60", |server| {
        let members = Member::several(&server, 8);
        let [first, second, others @ ..] = &members[..] else { unreachable!() };
        first.say("/nick ann");
        assert_eq!(first.line(), "* you are ann");
        for member in &members[1..] {
            assert_eq!(member.line(), format!("* {} is ann from now on", first.name));
        }
        // Everybody knows of her by now.
        second.say("/nick ann");
        assert_eq!(second.line(), "* somebody here has that name");
        for wrong in ["/nick", "/nick a b", "/nick \u{1f41a}", "/nick 1234567890123456789012345"] {
            second.say(wrong);
            assert_eq!(second.line(), "* that is no name");
        }
        second.say("/shout");
        assert_eq!(second.line(), "* there are /join ROOM, /nick NAME and /who");

        first.say("/join sea\n/who");
        assert_eq!(first.line(), "* you are in sea");
        assert_eq!(first.line(), "* sea has ann");
        members[1..].iter().for_each(|member| assert_eq!(member.line(), "* ann left: went to another room"));
        first.say("nobody hears this");
        assert_eq!(first.who(), ["ann"]);
        second.say("/join sea");
        // On another reactor, what was said before may come after.
        while second.line() != "* you are in sea" {}
        second.say("hello ann");
        assert_eq!(first.line(), format!("* {} is here", second.name));
        assert_eq!(first.line(), format!("{}: hello ann", second.name));
        assert_eq!(second.who(), ["ann", &second.name]);
        for member in others {
            assert_eq!(member.line(), format!("* {} left: went to another room", second.name));
        }
        // What a terminal would obey arrives as something else.
        second.say("\x1b[2Jtab\tand bell\x07");
        assert_eq!(first.line(), format!("{}: \u{fffd}[2Jtab\tand bell\u{fffd}", second.name));

        second.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(second.rest(), (vec!["* this is the end: goodbye".to_owned()], Ok(())));
        assert_eq!(first.line(), format!("* {} left: goodbye", second.name));
        assert_eq!(first.who(), ["ann"]);
        let _ = second.stream.shutdown(Shutdown::Both);
        assert_eq!(others[0].who(), others.iter().map(|member| &*member.name).collect::<Vec<_>>());
    });
}

/// Lines of so many bytes.
fn burst(bytes: usize, line: usize) -> String {
    (0..bytes / line).map(|number| format!("{number:06} {}\n", "x".repeat(line - 8))).collect()
}

/// Everything of a burst, and what else came before its end.
fn hear_burst(member: &Member, sender: &str, burst: &str) -> Vec<String> {
    let mut others = Vec::new();
    for line in burst.lines() {
        loop {
            let heard = member.line();
            match heard.strip_prefix(sender).and_then(|rest| rest.strip_prefix(": ")) {
                Some(said) => break assert_eq!(said, line, "at {}", member.name),
                None => others.push(heard),
            }
        }
    }
    others
}

#[test]
fn chat_closes_who_never_reads_and_nobody_else_for_a_burst() {
    let burst = burst(3 << 20, 60);
    with_each_chat("3", |server| {
        let members = Member::several(&server, 6);
        let (sender, readers) = members.split_first().unwrap();
        let dead = connect(&server);
        let name = sender.line();
        let name = name.strip_prefix("* ").unwrap().strip_suffix(" is here").unwrap();
        readers.iter().for_each(|reader| assert_eq!(reader.line(), format!("* {name} is here")));
        let told = format!("* {name} left: reads too slowly");
        thread::scope(|scope| {
            scope.spawn(|| (&sender.stream).write_all(burst.as_bytes()).unwrap());
            for reader in readers {
                scope.spawn(|| {
                    let mut others = hear_burst(reader, &sender.name, &burst);
                    others.extend(if others.is_empty() { Some(reader.line()) } else { None });
                    assert_eq!(others, [&*told], "at {}", reader.name);
                });
            }
            assert_eq!(sender.line(), told);
        });
        // It was told as well, for the case that it reads on.
        let mut reader = BufReader::new(dead);
        let mut last = String::new();
        let end = loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) => break Ok(()),
                Ok(_) => last = line,
                Err(error) => break Err(error.kind()),
            }
        };
        // Unless it was too late for that, which a busy machine may make it.
        assert!(
            end == Err(ErrorKind::ConnectionReset) || last == "* this is the end: reads too slowly\n",
            "{end:?}: {last}"
        );
        drop(reader);
        readers[0].say("all here");
        let line = format!("{}: all here", readers[0].name);
        members.iter().filter(|member| member.name != readers[0].name).for_each(|member| {
            assert_eq!(member.line(), line);
        });
        stop(server, &members);
    });
}

#[test]
fn chat_has_a_burst_wait_for_who_reads_late() {
    // More than what the kernel holds for both ends.
    let burst = burst(24 << 20, 1000);
    with_each_chat("60", |server| {
        let members = Member::several(&server, 3);
        let sender = &members[0];
        let late = connect(&server);
        let joined = sender.line();
        members[1..].iter().for_each(|member| assert_eq!(member.line(), joined));
        let written = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in burst.as_bytes().chunks(64 << 10) {
                    (&sender.stream).write_all(piece).unwrap();
                    written.fetch_add(piece.len(), Ordering::Relaxed);
                }
            });
            for reader in &members[1..] {
                scope.spawn(|| assert!(hear_burst(reader, &sender.name, &burst).is_empty()));
            }
            // It is held up until the late one reads.
            let mut before = usize::MAX;
            loop {
                let now = written.load(Ordering::Relaxed);
                assert!(now < burst.len(), "nobody waits for who does not read");
                if std::mem::replace(&mut before, now) == now {
                    break;
                }
                thread::sleep(Duration::from_secs(1));
            }
            let late = Member::over(late);
            let others = hear_burst(&late, &sender.name, &burst);
            assert!(others.iter().all(|line| line.ends_with(" is here")), "{others:?}");
        });
        // Nobody was closed, and the sender is read again.
        assert_eq!(sender.who().len(), 4);
    });
}

#[test]
fn chat_ends_a_connection_for_what_is_no_line_and_no_other() {
    with_each_chat("60", |server| {
        let members = Member::several(&server, 5);
        let everybody = |expected: &str| {
            members.iter().for_each(|member| {
                let line = member.line();
                assert!(line.contains(expected), "`{line}` at {}", member.name);
            });
        };
        let endless = vec![b'x'; 1 << 20];
        let lines: [(&[u8], &str); 3] =
            [(&endless, "line"), (b"hello\n\xff\xfe\xfd\nnever said\n", "UTF-8"), (b"\0\x80\n", "UTF-8")];
        for (bytes, why) in lines {
            let mut hostile = Member::join(&server);
            everybody(" is here");
            // The server may cut this short.
            let _ = hostile.stream.write_all(bytes);
            if bytes.starts_with(b"hello") {
                everybody(": hello");
            }
            let (lines, end) = hostile.rest();
            let last = lines.last().unwrap();
            assert!(last.starts_with("* this is the end: ") && last.contains(why), "{lines:?}");
            assert_eq!(end, Ok(()));
            everybody(&format!("* {} left: ", hostile.name));
        }
        // One that says half a line and is gone with a reset.
        let hostile = Member::join(&server);
        everybody(" is here");
        hostile.say("half a li");
        everybody(": half a li");
        socket2::SockRef::from(&hostile.stream).set_linger(Some(Duration::ZERO)).unwrap();
        let name = hostile.name.clone();
        // Its reading thread has a copy of the socket.
        hostile.stream.shutdown(Shutdown::Read).unwrap();
        drop(hostile.rest());
        drop(hostile);
        everybody(&format!("* {name} left: "));
        stop(server, &members);
    });
}

#[test]
fn examples_say_what_is_wrong_with_their_options() {
    for (name, arguments, part) in [
        ("chat", &["--backend", "kqueue"][..], "kqueue"),
        ("chat", &["--sideways"], "--sideways"),
        ("broadcast", &["--policy", "hope"], "wait, conflate or disconnect"),
        ("broadcast", &["--subscribers", "2", "--slow", "2"], "at least one"),
    ] {
        let output = output(example(name).args(arguments));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(part), "{name} {arguments:?}: {errors}");
        assert!(process::output(example(name).arg("--help")).status.success());
    }
}

/// Runs the example with two subscribers that never read and four that do. Its rows, and what else it said.
fn broadcast(policy: &str, options: &[&str]) -> (Vec<Value>, String) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let always = ["--json", "--backend", "all", "--policy", policy, "--subscribers", "6", "--slow", "2"];
    let output = output(example("broadcast").args(always).args(options));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["backend"].as_str().unwrap()).collect::<Vec<_>>(), backends());
    for row in &rows {
        assert_eq!((&row["policy"], &row["slow"]), (&policy.into(), &2.into()));
        // Whoever reads misses nothing that it was not told of, and is closed by nobody.
        assert_eq!((&row["gaps"], &row["lost"]), (&0.into(), &0.into()), "{row}");
        let [published, delivered, left_out] =
            ["published", "delivered", "left_out"].map(|name| row[name].as_u64().unwrap());
        assert!(published > 0 && delivered + left_out == published * 4, "{row}");
        for name in ["delivered_per_s", "p50_us", "p99_us", "p999_us", "cpu_percent", "server_cpu_percent"] {
            assert!(row[name].as_f64().is_some_and(|figure| figure > 0.0), "{name} in {row}");
        }
    }
    (rows, errors)
}

/// Fast enough that a socket that nobody reads is full soon, and slow enough for an unoptimised build on a busy machine.
const RATE: [&str; 8] = ["--rate", "40000", "--seconds", "3", "--limit", "524288", "--reactors", "2"];

#[test]
fn broadcast_disconnects_who_does_not_read() {
    let (rows, errors) = broadcast("disconnect", &RATE);
    for row in &rows {
        assert_eq!((&row["closed"], &row["left_out"]), (&2.into(), &0.into()), "{row}");
    }
    assert_eq!(errors.matches(" is behind by ").count(), 2 * rows.len(), "{errors}");
    assert!(errors.contains(" deliveries/s"), "it tells how it goes on: {errors}");
}

#[test]
fn broadcast_conflates_for_who_does_not_read() {
    let (rows, _) = broadcast("conflate", &RATE);
    for row in &rows {
        assert_eq!(row["closed"], 0, "{row}");
        assert!(row["behind"].as_u64().unwrap() >= 2, "{row}");
    }
}

#[test]
fn broadcast_waits_for_who_does_not_read_and_says_who_that_was() {
    let (rows, errors) = broadcast("wait", &[&RATE[..], &["--wait-ms", "300"]].concat());
    for row in &rows {
        assert_eq!((&row["closed"], &row["left_out"]), (&2.into(), &0.into()), "{row}");
        assert!(row["waited_ms"].as_f64().unwrap() >= 300.0, "{row}");
    }
    assert_eq!(errors.matches(" kept everybody waiting ").count(), 2 * rows.len(), "{errors}");
}

#[test]
fn broadcast_takes_every_batch_alone_without_a_linger_time() {
    let options = ["--rate", "2000", "--seconds", "0.5", "--linger-us", "0"];
    for row in broadcast("disconnect", &options).0 {
        assert_eq!((&row["closed"], &row["linger_us"]), (&0.into(), &0.into()), "{row}");
    }
}

fn publisher(backend: &str, policy: &str, rate: &str) -> Server {
    let mut command = example("broadcast");
    command.args(["--listen", "127.0.0.1:0", "--backend", backend, "--policy", policy]);
    command.args(["--rate", rate, "--limit", "65536", "--reactors", "2", "--wait-ms", "3600000"]);
    Server::start(command)
}

/// The number of the next message; or how many were left out.
fn number(stream: &mut impl Read) -> std::io::Result<Result<u64, u64>> {
    let mut message = [0; 16];
    stream.read_exact(&mut message)?;
    let word = u64::from_le_bytes(message[..8].try_into().unwrap());
    Ok(if word >> 63 == 1 { Err(word & !(1 << 63)) } else { Ok(word) })
}

#[test]
fn broadcast_brings_the_newest_to_who_was_behind_and_says_what_was_left_out() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in backends() {
        let server = publisher(&backend, "conflate", "200000");
        let mut stream = BufReader::new(connect(&server));
        let mut next = number(&mut stream).unwrap().unwrap() + 1;
        let deadline = Instant::now() + PATIENCE;
        let mut left_out = 0;
        while left_out == 0 {
            assert!(Instant::now() < deadline, "nothing is left out");
            thread::sleep(Duration::from_secs(1));
            // What was under way meanwhile, and somewhat more.
            for _ in 0..300_000 {
                match number(&mut stream).unwrap() {
                    Ok(number) => assert_eq!(number, next),
                    Err(count) => {
                        left_out += count;
                        next += count;
                        continue;
                    }
                }
                next += 1;
            }
        }
        // It goes on without a gap.
        for _ in 0..1000 {
            next +=
                number(&mut stream).unwrap().map_or_else(|count| count, |number| u64::from(number == next));
        }
        drop(stream);
        let (succeeded, text) = server.stop();
        assert!(succeeded && text.contains(" messages; "), "{text}");
    }
}

/// Reads until the server ends, and counts the messages that follow each other.
fn follow(stream: TcpStream, count: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    let first = number(&mut stream).unwrap().unwrap();
    for next in first + 1.. {
        match number(&mut stream) {
            Ok(number) => assert_eq!(number, Ok(next)),
            Err(_) => return,
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn broadcast_goes_on_when_the_slowest_has_read() {
    const FURTHER: usize = 100_000;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in backends() {
        let server = publisher(&backend, "wait", "200000");
        let (late, prompt) = (connect(&server), connect(&server));
        let counts = [const { AtomicUsize::new(0) }; 2];
        let heard = |index: usize| counts[index].load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        thread::scope(|scope| {
            scope.spawn(|| follow(prompt, &counts[0]));
            let mut before = usize::MAX;
            while std::mem::replace(&mut before, heard(0)) != heard(0) {
                assert!(Instant::now() < deadline, "nobody waits for who does not read");
                thread::sleep(Duration::from_secs(1));
            }
            scope.spawn(|| follow(late, &counts[1]));
            while heard(0) < before + FURTHER || heard(1) < FURTHER {
                assert!(Instant::now() < deadline, "everybody waits though all read");
                thread::sleep(Duration::from_millis(10));
            }
            let (succeeded, text) = server.stop();
            assert!(succeeded && text.contains("; 2 subscribers got all, 0 were cut off"), "{text}");
        });
    }
}

#[test]
fn broadcast_resets_who_is_behind_and_ends_in_good_order_for_the_others() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in backends() {
        let server = publisher(&backend, "disconnect", "20000");
        let dead = connect(&server);
        let reader = connect(&server);
        let reading = thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let first = number(&mut reader).unwrap().unwrap();
            for next in first + 1.. {
                match number(&mut reader) {
                    Ok(number) => assert_eq!(number, Ok(next)),
                    Err(error) => return error.kind(),
                }
            }
            unreachable!()
        });
        let deadline = Instant::now() + PATIENCE;
        let error = loop {
            if let Some(error) = dead.take_error().unwrap() {
                break error;
            }
            assert!(Instant::now() < deadline, "it is not closed");
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let (succeeded, text) = server.stop();
        assert!(succeeded && text.contains("; 1 subscribers got all, 0 were cut off"), "{text}");
        assert!(text.contains(&format!("{} is behind by ", dead.local_addr().unwrap())), "{text}");
        assert_eq!(reading.join().unwrap(), ErrorKind::UnexpectedEof, "the end of the stream, and no reset");
    }
}
