//! Reads of files, by threads.

mod common;

use common::harness_with;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use trochus_fallback::{Event, FileReader, Settings, fitting};

fn file_of(content: &[u8]) -> Arc<File> {
    let path = std::env::temp_dir().join(format!("trochus-read-{:?}", thread::current().id()));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

#[test]
fn a_read_brings_what_it_has_room_for_and_ends_a_wait() {
    let mut harness = harness_with(1, Settings::default().file_threads(2));
    let file = file_of(b"0123456789");
    for (token, (range, room, expected)) in
        [(0..10, 20, "0123456789"), (2..5, 20, "234"), (2..9, 4, "2345"), (8..40, 9, "89"), (10..20, 5, "")]
            .into_iter()
            .enumerate()
    {
        harness.proactor.read_file(file.clone(), range, vec![0xee; room], token as u64);
        assert_eq!(harness.proactor.pending(), 1);
        let completion = harness.next();
        let Event::Read(Ok(read), memory) = completion.event else { panic!("{completion:?}") };
        assert_eq!((completion.token, completion.more), (token as u64, false));
        assert_eq!(&memory[..read], expected.as_bytes());
        assert!(memory.len() == room && memory[read..].iter().all(|byte| *byte == 0xee));
    }
    harness.assert_settled();
    assert_eq!(Arc::strong_count(&file), 1);
}

#[test]
fn who_cannot_read_says_why() {
    let mut harness = harness_with(1, Settings::default());
    let path = std::env::temp_dir().join(format!("trochus-unreadable-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    harness.proactor.read_file(Arc::new(file), 0..5, vec![0; 5], 7);
    let completion = harness.next();
    let Event::Read(Err(error), memory) = completion.event else { panic!("{completion:?}") };
    assert_eq!((completion.token, error.raw_os_error(), memory.len()), (7, Some(libc::EBADF), 5));
    harness.assert_settled();
}

/// As many as there may be threads, and no more; each completes once.
#[test]
fn many_reads_are_made_by_few_threads() {
    let mut harness = harness_with(1, Settings::default().file_threads(3));
    let file = file_of(&(0..=255).collect::<Vec<u8>>());
    for token in 0..256 {
        harness.proactor.read_file(file.clone(), token..token + 1, vec![0], token);
    }
    let mut seen = [false; 256];
    for _ in 0..256 {
        let completion = harness.next();
        let Event::Read(Ok(1), memory) = completion.event else { panic!("{completion:?}") };
        assert_eq!(u64::from(memory[0]), completion.token);
        assert!(!std::mem::replace(&mut seen[completion.token as usize], true));
    }
    harness.assert_settled();
    assert!(format!("{:?}", FileReader::new(3, || {})).contains("threads: 0"), "none without a read");
}

/// One thread, which is kept busy: what it has not begun can be taken back.
#[test]
fn a_read_that_has_not_begun_is_cancelled() {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let mut reader = FileReader::new(1, move || _ = count.fetch_add(1, Ordering::SeqCst));
    let (file, large) = (file_of(b"x"), file_of(&vec![1; 64 << 20]));
    reader.read(0, large.clone(), 0..64 << 20, vec![0; 64 << 20]);
    for token in 1..=100 {
        reader.read(token, file.clone(), 0..1, vec![0]);
    }
    (1..=100).for_each(|token| reader.cancel(token));
    reader.cancel(1_000);
    let (mut cancelled, mut read) = (0, 0);
    while reader.pending() > 0 {
        reader.take(&mut |done| match done.result {
            Ok(_) => read += 1,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                cancelled += 1;
            }
        });
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(cancelled + read, 101);
    assert!(cancelled > 0, "all of them were read while the first one was");
    assert!(woken.load(Ordering::SeqCst) > 0 && !reader.has_done());
    assert_eq!((Arc::strong_count(&file), Arc::strong_count(&large)), (1, 1));
}

/// Its threads have ended by then, and nothing is open any more.
#[test]
fn a_proactor_that_is_dropped_amid_reads_closes_their_files() {
    let file = file_of(&vec![1; 1 << 20]);
    for _ in 0..20 {
        let mut harness = harness_with(1, Settings::default().file_threads(2));
        for token in 0..50 {
            harness.proactor.read_file(file.clone(), 0..1 << 20, vec![0; 1 << 20], token);
        }
        drop(harness);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}

#[test]
fn no_more_is_asked_for_than_fits() {
    let reversed = std::ops::Range { start: 5, end: 4 };
    for (range, room, expected) in
        [(0..5, 3, 3), (2..5, 9, 3), (0..u64::MAX, 4, 4), (5..5, 4, 0), (reversed, 4, 0)]
    {
        assert_eq!(fitting(&range, &vec![0; room]), expected);
    }
}
