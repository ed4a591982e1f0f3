//! A client, the proxy and a server, and who did what.

use crate::proxy::{Counts, FaultProxy, Plan};
use crate::support::{eventually, plain};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Reply, Server};

/// Requests that a test may make.
const REQUESTS: usize = 1 << 16;

pub(crate) struct Stage<P: Protocol> {
    pub(crate) server: Option<Server>,
    pub(crate) proxy: FaultProxy,
    pub(crate) client: Client<P>,
    ledger: Arc<Ledger>,
}

/// How often each request was executed, what each call was told, and what became of pushes.
pub(crate) struct Ledger {
    executed: Vec<AtomicU32>,
    told: Mutex<Vec<(i32, Result<i32, CallError>)>>,
    pushed: Mutex<Vec<i32>>,
    push_responses: AtomicU64,
}

/// What the calls came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) not_sent: u64,
    pub(crate) timed_out: u64,
    pub(crate) timed_out_unsent: u64,
    pub(crate) executed: u64,
}

/// A client that comes back at once, however often.
pub(crate) fn persistent() -> ClientOptions {
    let policy = Reconnect::forever().first_delay(Duration::from_millis(1));
    ClientOptions::new().reconnect(policy.longest_delay(Duration::from_millis(4)))
}

/// The service: a request's answer is its last bit turned. Every fifth answer comes later, from elsewhere.
pub(crate) fn serve<P>(runtime: &Runtime, protocol: P, ledger: &Arc<Ledger>) -> Server
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let (later, due) = mpsc::channel::<(i32, Reply<i32>)>();
    let (later, ledger) = (Mutex::new(later), ledger.clone());
    // Ends with the service.
    thread::spawn(move || due.into_iter().for_each(|(n, reply)| reply.send(n ^ 1)));
    Server::bind(runtime, "127.0.0.1:0", protocol, move |n: i32, reply: Reply<i32>| {
        ledger.executed[n as usize].fetch_add(1, SeqCst);
        if n % 5 == 0 {
            later.lock().unwrap().send((n, reply)).unwrap();
        } else {
            reply.send(n ^ 1);
        }
    })
    .unwrap()
}

impl<P> Stage<P>
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    pub(crate) fn new(
        runtime: &Runtime,
        protocol: P,
        options: &ClientOptions,
        plan: impl FnMut(u64) -> Plan + Send + 'static,
    ) -> Self {
        let ledger = Arc::new(Ledger {
            executed: (0..REQUESTS).map(|_| AtomicU32::new(0)).collect(),
            told: Mutex::default(),
            pushed: Mutex::default(),
            push_responses: AtomicU64::new(0),
        });
        let server = serve(runtime, protocol.clone(), &ledger);
        let proxy = FaultProxy::start(plain(server.local_addr()), plan).unwrap();
        let theirs = ledger.clone();
        let callback = move |_: i32| _ = theirs.push_responses.fetch_add(1, SeqCst);
        let client = Client::builder(protocol).options(options.clone()).on_response(callback);
        let client = client.connect(runtime, proxy.address().to_string()).unwrap();
        Stage { server: Some(server), proxy, client, ledger }
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Makes these calls all at once, and waits for what becomes of each.
    pub(crate) fn call(&self, requests: impl IntoIterator<Item = i32>, timeout: Duration) -> Sums {
        let calls = requests.into_iter().map(|n| (n, self.client.call(n).timeout(timeout)));
        let calls: Vec<_> = calls.collect();
        let told: Vec<_> = calls.into_iter().map(|(n, call)| (n, call.wait())).collect();
        let sums = Sums::of(told.iter().map(|(_, outcome)| outcome));
        self.ledger.told.lock().unwrap().extend(told);
        sums
    }

    pub(crate) fn push(&self, n: i32) {
        if self.client.push(n).is_ok() {
            self.ledger.pushed.lock().unwrap().push(n);
        }
    }

    /// Ends everything, and compares what was told with what was done.
    pub(crate) fn finish(self, runtime: &Runtime) -> (Sums, Counts) {
        let Stage { server, proxy, client, ledger } = self;
        let end = client.close();
        let unsent = client.take_unsent();
        drop(client);
        if let Some(server) = server {
            server.stop_async(Duration::from_secs(5)).wait().unwrap();
        }
        let counts = proxy.stop();
        is_at_rest(runtime);
        let (unanswered, known_unsent) =
            end.as_ref().map_or_else(|end| (end.unanswered(), end.unsent()), |()| (0, 0));
        assert_eq!(known_unsent, unsent.len());
        let sums = ledger.settle();
        let pushed = ledger.pushed.lock().unwrap();
        let executed = |n: &i32| ledger.executed[*n as usize].load(SeqCst);
        assert!(pushed.iter().all(|n| executed(n) <= 1), "a pushed request was executed twice");
        assert!(unsent.iter().all(|n| executed(n) == 0), "one that was not sent was executed");
        let answered = ledger.push_responses.load(SeqCst);
        let missing = pushed.len() as u64 - answered;
        // Calls that the last connection took along count as well.
        let known = unanswered + unsent.len() as u64;
        let told_once_more = 0..=sums.lost + sums.timed_out;
        assert!(
            known.checked_sub(missing).is_some_and(|more| told_once_more.contains(&more)),
            "{} were pushed, {answered} answered: {end:?}, {sums:?}",
            pushed.len()
        );
        (sums, counts)
    }
}

impl Ledger {
    /// What each call was told has to be true.
    fn settle(&self) -> Sums {
        let told = self.told.lock().unwrap();
        let mut sums = Sums::of(told.iter().map(|(_, outcome)| outcome));
        for (n, outcome) in told.iter() {
            let times = self.executed[*n as usize].load(SeqCst);
            match outcome {
                Ok(answer) => assert_eq!((*answer, times), (n ^ 1, 1), "call {n} was answered"),
                Err(error) if error.may_have_been_executed() => assert!(times <= 1, "{n}: {times} times"),
                Err(error) => assert_eq!(times, 0, "call {n} was executed, and told: {error}"),
            }
            sums.executed += u64::from(times);
        }
        sums
    }
}

impl Sums {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Result<i32, CallError>>) -> Self {
        let mut sums = Sums::default();
        for outcome in outcomes {
            *match outcome {
                Ok(_) => &mut sums.answered,
                Err(CallError::Lost(_)) => &mut sums.lost,
                Err(CallError::NotSent(_)) => &mut sums.not_sent,
                Err(CallError::TimedOut { sent: true }) => &mut sums.timed_out,
                Err(CallError::TimedOut { sent: false }) => &mut sums.timed_out_unsent,
                Err(error) => panic!("no right error: {error}"),
            } += 1;
        }
        sums
    }
}

/// Nothing is left on any reactor, and every connection that began has ended.
pub(crate) fn is_at_rest(runtime: &Runtime) {
    for reactor in 0..runtime.reactors() {
        eventually("everything has ended", || {
            runtime.run_on(reactor, |reactor| reactor.outstanding()).wait().unwrap() == Default::default()
        });
    }
    let metrics = runtime.metrics();
    assert_eq!(metrics.connections_opened, metrics.connections_closed);
    assert_eq!((metrics.handler_panics, metrics.internal_panics), (0, 0));
}
