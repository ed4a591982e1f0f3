//! One backend's servers, what happens to them, and the clients around them.

use crate::Result;
use crate::ledger::{Kind, Ledger};
use crate::options::Options;
use crate::proxy::{FaultProxy, Plan};
use crate::watchdog::Watchdog;
use crate::wire::{Asked, FRAME};
use crate::{calls, rough};
use fastrand::Rng;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use trochus::codec::{ById, Correlated, LengthDelimited, Protocol};
use trochus::net::{self, Handler, Io, ListenOptions, StreamOptions};
use trochus::rpc::{Reply, Server};
use trochus::{Backend, Gauges, Runtime};

pub(crate) type Frames = Correlated<LengthDelimited, ById>;

/// What a server that stops gives its connections.
const GRACE: Duration = Duration::from_secs(5);

/// How long a peer may take for the rest of a request, and may take nothing of its responses.
const HALF: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_secs(2);

/// Anything that has to happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Ground {
    pub(crate) backend: Backend,
    pub(crate) servers: Runtime,
    pub(crate) clients: Runtime,
    pub(crate) ledger: Arc<Ledger>,
    /// Where there is a server for calls, and one that sends back what it gets.
    pub(crate) calls: SocketAddr,
    pub(crate) echoes: SocketAddr,
    pub(crate) idle: usize,
    stops: AtomicBool,
    /// Requests that servers said they were called for.
    requests: AtomicU64,
}

/// Sends back what it gets.
struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

pub(crate) fn frames() -> Frames {
    LengthDelimited::new().max_frame_bytes(FRAME).by_id()
}

/// A place to listen at that stays the same.
fn free_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Ground {
    pub(crate) fn new(backend: Backend, options: &Options, idle: usize) -> Result<Self> {
        // Small ones, so that memory is where it stays by and by when the warm-up is over.
        let runtime =
            |reactors| Runtime::builder().backend(backend).reactors(reactors).pool(32, 64 << 10).build();
        Ok(Ground {
            backend,
            servers: runtime(2)?,
            clients: runtime(1)?,
            ledger: Arc::new(Ledger::new()),
            calls: free_port()?,
            echoes: free_port()?,
            idle: idle.min(options.idle),
            stops: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        })
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stops.load(SeqCst)
    }

    pub(crate) fn stop(&self) {
        self.stops.store(true, SeqCst);
    }

    /// Sleeps, but not for longer than it all goes on.
    pub(crate) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.goes_on() && Instant::now() < until {
            thread::sleep(time.min(Duration::from_millis(5)));
        }
    }

    /// Everything, until [`stop`](Self::stop): then all of it ends, and is compared.
    pub(crate) fn run(self: &Arc<Self>, seed: u64, watchdog: &Watchdog) -> Result<()> {
        self.stops.store(false, SeqCst);
        let mut server = self.serve_calls()?;
        let mut echo = self.servers.listen_with(&listening(), self.echoes, |_: &net::Incoming<'_>| Echo)?;
        let proxy_seed = seed ^ 1;
        let plan = move |number| Plan::random(proxy_seed, number, 30_000);
        let proxy = FaultProxy::start(self.calls, plan)?;
        thread::scope(|scope| {
            let workers: [(Kind, Worker); 10] = [
                (Kind::Good, calls::good),
                (Kind::Proxied, calls::proxied),
                (Kind::Pushing, calls::pushing),
                (Kind::Dialing, rough::dialing),
                (Kind::Slow, rough::slow),
                (Kind::Greedy, rough::greedy),
                (Kind::Malformed, rough::malformed),
                (Kind::HalfOpen, rough::half_open),
                (Kind::Vanishing, rough::vanishing),
                (Kind::Idle, rough::idle),
            ];
            for (kind, work) in workers {
                let (watched, proxy) = (watchdog.watch(format!("{} {kind:?}", self.backend)), &proxy);
                scope.spawn(move || {
                    let mut random = Rng::with_seed(seed ^ (kind as u64) << 32);
                    let job = Job { ground: self, kind, watched: &watched, proxy };
                    if let Err(error) = work(&job, &mut random) {
                        self.ledger.fail(format!("{} {kind:?}: {error}", self.backend));
                    }
                });
            }
            let watched = watchdog.watch(format!("{} conductor", self.backend));
            let mut random = Rng::with_seed(seed ^ 2);
            while self.goes_on() {
                watched.doing("pausing");
                self.rest(Duration::from_millis(random.u64(200..1200)));
                if random.bool() {
                    watched.doing("restarting the server for calls");
                    self.ledger.began(Kind::Restart);
                    if let Err(error) = self.restart(&mut server) {
                        self.ledger.fail(format!("{} restart: {error}", self.backend));
                    }
                } else {
                    watched.doing("handing over sockets");
                    self.ledger.began(Kind::HandOver);
                    if let Err(error) = self.hand_over(&mut echo) {
                        self.ledger.fail(format!("{} hand-over: {error}", self.backend));
                    }
                }
            }
            watched.doing("waiting for the others");
        });
        proxy.stop();
        self.end_calls(&server)?;
        echo.stop(GRACE)?;
        Ok(())
    }

    fn serve_calls(self: &Arc<Self>) -> Result<Server> {
        let (later, due) = mpsc::channel::<(Asked, Reply<bytes::Bytes>)>();
        let (later, ledger) = (Mutex::new(later), self.ledger.clone());
        // Ends with the service.
        thread::spawn(move || due.into_iter().for_each(|(asked, reply)| reply.send(asked.answer().into())));
        let service = move |request: &[u8], reply: Reply<bytes::Bytes>| {
            let Some(asked) = Asked::parse(request) else {
                ledger.foreign.fetch_add(1, SeqCst);
                return reply.send(bytes::Bytes::new());
            };
            ledger.execute(asked);
            if asked.number % 7 == 0 {
                later.lock().unwrap().send((asked, reply)).expect("the other thread goes on");
            } else {
                reply.send(asked.answer().into());
            }
        };
        let options = Server::builder().listen(listening()).half_request_timeout(HALF);
        Ok(options.bind(&self.servers, self.calls, frames(), service)?)
    }

    fn restart(self: &Arc<Self>, server: &mut Server) -> Result<()> {
        self.end_calls(server)?;
        *server = self.serve_calls()?;
        Ok(())
    }

    fn end_calls(&self, server: &Server) -> Result<()> {
        server.stop(GRACE)?;
        self.requests.fetch_add(server.metrics().requests, SeqCst);
        Ok(())
    }

    /// Another server takes the sockets over; connections stay where they are.
    fn hand_over(&self, echo: &mut net::Server) -> Result<()> {
        let sockets = echo.sockets()?;
        let next = self.servers.listen_on(&listening(), sockets, |_: &net::Incoming<'_>| Echo)?;
        std::mem::replace(echo, next).close();
        Ok(())
    }

    /// Waits until nothing is left, and compares what was counted.
    pub(crate) fn settle(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, runtime) in [("servers", &self.servers), ("clients", &self.clients)] {
            // Sooner than the deadlines of calls: those of calls that are over may not be what ends it.
            let until = Instant::now() + SOON / 2;
            let left = loop {
                let gauges = runtime.gauges().unwrap_or_default();
                let left: Vec<&Gauges> = gauges.iter().filter(|left| **left != Gauges::default()).collect();
                if left.is_empty() || Instant::now() > until {
                    break format!("{left:?}");
                }
                thread::sleep(Duration::from_millis(5));
            };
            if left != "[]" {
                wrong.push(format!("{} {name}: still there: {left}", self.backend));
            }
            let metrics = runtime.metrics();
            if metrics.connections() != 0
                || (metrics.internal_panics, metrics.handler_panics, metrics.reactor_failures) != (0, 0, 0)
            {
                wrong.push(format!("{} {name}: {metrics:?}", self.backend));
            }
        }
        self.ledger.check();
        let executed = self.ledger.executions.load(SeqCst) + self.ledger.foreign.load(SeqCst);
        let counted = self.requests.load(SeqCst);
        if executed != counted {
            wrong.push(format!(
                "{}: {executed} requests were executed, {counted} counted by servers",
                self.backend
            ));
        }
        wrong
    }
}

pub(crate) type Worker = fn(&Job<'_>, &mut Rng) -> Result<()>;

/// What a worker has to do with.
pub(crate) struct Job<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) kind: Kind,
    pub(crate) watched: &'a crate::watchdog::Watched,
    pub(crate) proxy: &'a FaultProxy,
}

fn listening() -> ListenOptions {
    ListenOptions::new().stream(StreamOptions::new().write_stall_timeout(STALL).close_timeout(STALL))
}
