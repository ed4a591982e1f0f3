//! Signals. A program of its own, because what a signal does is a matter of the whole process.

#![allow(unsafe_code)]

mod common;

use common::{KINDS, error_number, harness, pair};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use trochus_fallback::{Event, Proactor, Settings};

/// The dispositions of signals belong to the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn sending_to_nobody_is_an_error_and_not_the_end_of_the_process() {
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    // Rust programs start with SIGPIPE ignored, which would hide it; programs in C that embed us do not.
    // SAFETY: signal(2) has no preconditions for a valid signal and the default disposition.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    assert_eq!(before, libc::SIG_IGN);
    for kind in KINDS {
        let mut harness = harness(1);
        let (socket, peer) = pair(kind);
        let fd = harness.attach(socket);
        drop(peer);
        let number = (0..10).find_map(|_| {
            harness.proactor.send(fd, b"anyone?".to_vec(), 1);
            let completion = harness.next();
            if matches!(completion.event, Event::Sent(Ok(_), _)) { None } else { error_number(&completion) }
        });
        assert!(matches!(number, Some(libc::EPIPE | libc::ECONNRESET)), "{number:?}");
        // The connection is known to be broken now, which is when the signal is sent.
        harness.proactor.send(fd, b"anyone?".to_vec(), 1);
        let completion = harness.next();
        assert_eq!(error_number(&completion), Some(libc::EPIPE));
    }
}

#[test]
fn an_interrupted_wait_is_no_error() {
    extern "C" fn do_nothing(_signal: libc::c_int) {}
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    // SAFETY: the handler does nothing, so it is safe to run at any point of the program.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
    // SAFETY: pthread_self(3) always succeeds.
    let waiting = unsafe { libc::pthread_self() } as usize;
    let returned = AtomicBool::new(false);
    let mut proactor = Proactor::<Vec<u8>>::new(Settings::default()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Nothing but a signal ends the wait. One that comes before the wait does not, so: until it has
            // ended.
            while !returned.load(Ordering::SeqCst) {
                // SAFETY: the scope's owner is alive until this thread ends.
                unsafe { libc::pthread_kill(waiting as libc::pthread_t, libc::SIGUSR1) };
                thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = proactor.wait(None, &mut |completion| panic!("{completion:?}"));
        returned.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
}
