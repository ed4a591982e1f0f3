//! With the feature `tracing`: an event for each request at a server and each call of a client.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use trochus::codec::{Int32, Protocol};
use trochus::rpc::{Client, Reply, Server};
use trochus::{Backend, Runtime};

const SLOW: Duration = Duration::from_millis(30);

type Fields = BTreeMap<&'static str, String>;

/// What was told, by target.
static TOLD: Mutex<Vec<(&'static str, Fields)>> = Mutex::new(Vec::new());

struct Collects;

impl Subscriber for Collects {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("trochus::rpc::")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        assert_eq!(*event.metadata().level(), Level::DEBUG);
        let mut fields = Gather(Fields::new());
        event.record(&mut fields);
        TOLD.lock().unwrap().push((event.metadata().target(), fields.0));
        // Whoever tells is not to be harmed by a subscriber that fails.
        resume_unwind(Box::new("on purpose"));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Gather(Fields);

impl Visit for Gather {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// Waits for so many, and takes them.
fn told(target: &str, count: usize) -> Vec<Fields> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut all = TOLD.lock().unwrap();
        let (mine, others): (Vec<_>, Vec<_>) = all.drain(..).partition(|(of, _)| *of == target);
        if mine.len() >= count {
            *all = others;
            assert_eq!(mine.len(), count, "{mine:?}");
            return mine.into_iter().map(|(_, fields)| fields).collect();
        }
        *all = [mine, others].concat();
        drop(all);
        assert!(Instant::now() < deadline, "in vain: {target}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn outcomes(told: &[Fields]) -> Vec<&str> {
    told.iter().map(|fields| &*fields["outcome"]).collect()
}

/// To the millisecond, as servers know it.
fn took_long(fields: &Fields) -> bool {
    fields["micros"].parse::<u128>().unwrap() + 1000 >= SLOW.as_micros()
}

#[test]
fn each_request_and_each_call_is_told_once() {
    tracing::subscriber::set_global_default(Collects).unwrap();
    for backend in Backend::available() {
        let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let serve = move |n: i32, reply: Reply<i32>| match n {
            1 => drop(reply),
            2 => resume_unwind(Box::new("on purpose")),
            3 => drop(thread::spawn(move || {
                thread::sleep(SLOW);
                reply.send(n);
            })),
            4 => drop(thread::spawn(move || {
                thread::sleep(SLOW);
                drop(reply);
            })),
            5 => {
                thread::sleep(SLOW);
                reply.send(n);
            }
            6 => keep.lock().unwrap().send(reply).unwrap(),
            _ => reply.send(n),
        };
        let server = Server::bind(&runtime, "127.0.0.1:0", Int32.by_id(), serve).unwrap();
        let client = Client::connect(&runtime, server.local_addr(), Int32.by_id()).unwrap();
        for n in 0..6 {
            assert_eq!(client.call(n).wait().is_ok(), matches!(n, 0 | 3 | 5), "{n}");
        }
        let requests = told("trochus::rpc::server", 6);
        let expected = ["answered", "dropped", "panicked", "answered", "dropped", "answered"];
        assert_eq!(outcomes(&requests), expected, "{backend}");
        assert!(requests[3..].iter().all(took_long), "{requests:?}");
        let numbers: Vec<_> = requests.iter().map(|fields| &*fields["request"]).collect();
        assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"]);
        assert!(requests.iter().all(|fields| fields["peer"].starts_with("127.0.0.1:")));
        let calls = told("trochus::rpc::client", 6);
        let expected = ["answered", "lost", "lost", "answered", "lost", "answered"];
        assert_eq!(outcomes(&calls), expected, "{backend}");
        assert!(calls[3..].iter().all(took_long), "{calls:?}");
        assert!(calls.iter().all(|fields| fields.contains_key("id")));
        // Those that nobody waits for to the end.
        let next = || kept.recv_timeout(Duration::from_secs(60)).unwrap();
        let cancelled = client.call(6);
        let mut replies = vec![next()];
        drop(cancelled);
        let timed_out = client.call(6).timeout(SLOW).wait();
        assert!(timed_out.is_err());
        let open = client.call(6);
        replies.extend([next(), next()]);
        client.abort();
        assert!(open.wait().is_err());
        assert!(client.call(7).wait().is_err());
        let calls = told("trochus::rpc::client", 4);
        assert_eq!(outcomes(&calls), ["cancelled", "timed out", "lost", "not sent"]);
        let abandoned = told("trochus::rpc::server", 3);
        assert!(abandoned.iter().all(|fields| fields["outcome"] == "abandoned"), "{abandoned:?}");
        drop(replies);
        // In order, what waits for its turn is told when it is answered.
        let serve = |n: i32, reply: Reply<i32>| match n {
            0 => drop(thread::spawn(move || {
                thread::sleep(SLOW);
                reply.send(n);
            })),
            _ => reply.send(n),
        };
        let server = Server::bind(&runtime, "127.0.0.1:0", Int32, serve).unwrap();
        let client = Client::connect(&runtime, server.local_addr(), Int32).unwrap();
        let calls = [client.call(0), client.call(1)];
        assert_eq!(calls.map(|call| call.wait().unwrap()), [0, 1]);
        let requests = told("trochus::rpc::server", 2);
        let numbers: Vec<_> = requests.iter().map(|fields| &*fields["request"]).collect();
        assert_eq!(numbers, ["1", "0"]);
        let calls = told("trochus::rpc::client", 2);
        assert!(calls.iter().all(|fields| !fields.contains_key("id")), "in order there are none");
        client.close().unwrap();
    }
}
