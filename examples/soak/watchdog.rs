//! A hang ends the process, with a report of what was waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What is going on, and until when it has to be over.
#[derive(Clone)]
pub(crate) struct Watchdog(Arc<Mutex<State>>);

struct State {
    phase: String,
    deadline: Instant,
    workers: BTreeMap<String, (&'static str, Instant)>,
}

/// A worker's entry, for as long as it works.
pub(crate) struct Watched {
    watchdog: Watchdog,
    name: String,
}

impl Watchdog {
    pub(crate) fn start(seed: u64) -> Self {
        let state = State {
            phase: "the beginning".to_owned(),
            deadline: Instant::now() + Duration::from_secs(60),
            workers: BTreeMap::new(),
        };
        let watchdog = Watchdog(Arc::new(Mutex::new(state)));
        let theirs = watchdog.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(20));
                theirs.look(seed);
            }
        });
        watchdog
    }

    fn look(&self, seed: u64) {
        let state = self.0.lock().unwrap();
        if Instant::now() < state.deadline {
            return;
        }
        eprintln!("\nsoak: {} takes too long. What is being waited for:", state.phase);
        for (name, (doing, since)) in &state.workers {
            eprintln!("  {name}: {doing}, for {:.1} s", since.elapsed().as_secs_f64());
        }
        eprintln!("soak: failed; to do the same again: --seed {seed}");
        std::process::exit(1);
    }

    /// From now on this goes on, for so long at most.
    pub(crate) fn phase(&self, phase: &str, limit: Duration) {
        let mut state = self.0.lock().unwrap();
        state.phase = phase.to_owned();
        state.deadline = Instant::now() + limit;
    }

    pub(crate) fn watch(&self, name: String) -> Watched {
        let watched = Watched { watchdog: self.clone(), name };
        watched.doing("beginning");
        watched
    }
}

impl Watched {
    pub(crate) fn doing(&self, what: &'static str) {
        self.watchdog.0.lock().unwrap().workers.insert(self.name.clone(), (what, Instant::now()));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watchdog.0.lock().unwrap().workers.remove(&self.name);
    }
}
