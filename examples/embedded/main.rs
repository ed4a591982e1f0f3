//! A reactor in somebody else's loop: a game that ticks 60 times a second, hears datagrams of its own, and serves its players
//! in between, all on one thread with one `mio::Poll`.
//!
//! The loop sleeps until its next tick, the reactor's next deadline, or until one of its descriptors is readable. It makes the
//! players itself, on threads that send as much as they can or a message now and then, and tells how late the ticks were, how
//! long a turn of the reactor took, and how often a wait of the loop was interrupted.
//!
//! `cargo run --release --example embedded -- --clients 16 --load bulk --seconds 5`

mod options;
mod players;
mod report;

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use options::{Options, Settings};
use report::Report;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use trochus::Reactor;
use trochus::net::{Handler, Io};

const TICK: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// How often a timer of the reactor's fires, to see how late it is.
const TIMER: Duration = Duration::from_millis(10);

/// How long players may take to end once they were asked to.
const PATIENCE: Duration = Duration::from_secs(30);

const REACTOR: Token = Token(0);
const DATAGRAMS: Token = Token(1);

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Player;

impl Handler for Player {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

fn main() -> Result<(), Failure> {
    let Some(options) = Options::from_command_line()? else { return Ok(()) };
    let mut builder = match options.settings {
        Settings::Embedded => Reactor::builder().embedded(),
        Settings::Default => Reactor::builder(),
    };
    if let Some(backend) = options.backend {
        // Unless somebody names one, the settings choose.
        builder = builder.backend(backend);
    }
    let mut reactor = builder.build()?;
    let listener = reactor.listen(options.listen.as_str(), |_| Player)?;
    let greeting = format!("listening on {} via {}", listener.local_addr(), reactor.backend());
    // With `--json`, standard output has nothing but the row.
    if options.json {
        eprintln!("{greeting}")
    } else {
        println!("{greeting}")
    }

    let mut game = Game::new(reactor, &options)?;
    let players = players::start(&options, listener.local_addr(), game.datagrams.local_addr()?)?;
    let end = Instant::now() + options.time;
    game.run(|_| Instant::now() >= end)?;
    players.stop();
    game.run(|_| players.are_done() || Instant::now() >= end + PATIENCE)?;
    game.reactor.begin_drain(Duration::from_secs(1));
    game.run(|game| game.reactor.is_drained())?;

    let Game { reactor, report, timer, .. } = game;
    let served = players.join();
    report.print(&options, &reactor, &timer.borrow(), &served);
    if served.iter().all(Result::is_ok) { Ok(()) } else { Err("a player was not served".into()) }
}

struct Game {
    reactor: Reactor,
    poll: Poll,
    datagrams: UdpSocket,
    next_tick: Instant,
    report: Report,
    /// How late the reactor's timer was, each time.
    timer: Rc<RefCell<Vec<Duration>>>,
    next_word: Option<Instant>,
}

impl Game {
    fn new(mut reactor: Reactor, options: &Options) -> Result<Self, Failure> {
        let poll = Poll::new()?;
        let mut datagrams = UdpSocket::bind(([127, 0, 0, 1], 0).into())?;
        poll.registry().register(&mut datagrams, DATAGRAMS, Interest::READABLE)?;
        // Until the end: both live as long as the other.
        poll.registry().register(&mut SourceFd(&reactor.as_raw_fd()), REACTOR, Interest::READABLE)?;
        let timer = Rc::<RefCell<Vec<Duration>>>::default();
        watch_timer(&mut reactor, timer.clone());
        let now = Instant::now();
        let next_word = (options.time > Duration::from_secs(2) && !options.json).then_some(now);
        let report = Report::default();
        Ok(Game { reactor, poll, datagrams, next_tick: now + TICK, report, timer, next_word })
    }

    /// The host's loop.
    fn run(&mut self, done: impl Fn(&Game) -> bool) -> Result<(), Failure> {
        let mut events = Events::with_capacity(16);
        while !done(self) {
            let wake = [Some(self.next_tick), self.reactor.next_deadline()].into_iter().flatten().min();
            let timeout = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
            let mut turn = false;
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                // On io_uring the kernel ends this wait to complete what the reactor asked for.
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    self.report.interrupted += 1;
                    turn = true;
                }
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.token() {
                    REACTOR => turn = true,
                    _ => self.hear()?,
                }
            }
            if turn || self.reactor.next_deadline().is_some_and(|due| due <= Instant::now()) {
                self.turn()?;
            }
            self.tick_if_due();
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let (wall, processor) = (Instant::now(), report::processor_time());
        self.reactor.turn(Some(Duration::ZERO))?;
        self.report.turned(wall.elapsed(), report::processor_time() - processor);
        Ok(())
    }

    fn hear(&mut self) -> Result<(), Failure> {
        loop {
            match self.datagrams.recv(&mut [0; 64]) {
                Ok(_) => self.report.datagrams += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => self.report.interrupted += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The game itself, which is a count here.
    fn tick_if_due(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.report.late.push(now - self.next_tick);
        while self.next_tick <= now {
            self.next_tick += TICK;
        }
        if self.next_word.is_some_and(|next| now >= next + Duration::from_secs(1)) {
            self.next_word = Some(now);
            println!("{}", self.report.progress(&self.reactor));
        }
    }
}

fn watch_timer(reactor: &mut Reactor, late: Rc<RefCell<Vec<Duration>>>) {
    let due = Instant::now() + TIMER;
    reactor.after(TIMER, move |reactor| {
        late.borrow_mut().push(Instant::now().saturating_duration_since(due));
        if !reactor.is_drained() {
            watch_timer(reactor, late);
        }
    });
}
