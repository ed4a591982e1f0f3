//! Reads of files, by a ring and by the threads in its place.

use super::*;
use std::fs::File;

fn rings() -> Vec<Uring> {
    let mut without = UringFeatures::default();
    without.insert(UringFeature::FileRead);
    let pool = PoolConfig { buffers: 16, buffer_bytes: 4096, ..PoolConfig::default() };
    let open = |without| Uring::new(&pool, RingEntries::default(), without).ok();
    [UringFeatures::default(), without].into_iter().filter_map(open).collect()
}

fn file_of(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

#[test]
fn a_range_is_read_as_far_as_there_is_memory() {
    for mut uring in rings() {
        let file = file_of(b"0123456789");
        for (range, memory, expected) in [
            (0..10, 20, "0123456789"),
            (2..5, 20, "234"),
            (2..9, 4, "2345"),
            (8..40, 20, "89"),
            (10..20, 5, ""),
        ] {
            let token = Token::new(Kind::Read, 1, 5);
            uring.submit(token, Op::Read { file: file.clone(), range, memory: vec![0xee; memory] });
            assert_eq!(uring.in_flight(), 1);
            let completion = wait_for(&mut uring, 1).remove(0);
            let Event::Read(Ok(read), memory) = completion.event else { panic!("{completion:?}") };
            assert_eq!((completion.token, completion.more), (token, false));
            assert_eq!(&memory[..read], expected.as_bytes());
            assert!(memory[read..].iter().all(|byte| *byte == 0xee), "no more was asked for");
        }
        assert_eq!((uring.in_flight(), Arc::strong_count(&file)), (0, 1));
    }
}

/// A file that cannot be read says so; and one that is closed meanwhile is read all the same, for the read has it open.
#[test]
fn reads_have_their_file_and_say_what_is_wrong() {
    for mut uring in rings() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let unreadable = Arc::new(File::options().write(true).open(path.path()).unwrap());
        let token = Token::new(Kind::Read, 1, 5);
        uring.submit(token, Op::Read { file: unreadable, range: 0..5, memory: vec![0; 5] });
        let completion = wait_for(&mut uring, 1).remove(0);
        let Event::Read(Err(error), memory) = completion.event else { panic!("{completion:?}") };
        assert_eq!((error.raw_os_error(), memory.len()), (Some(libc::EBADF), 5));
        for index in 0..20 {
            let token = Token::new(Kind::Read, 1, index);
            uring.submit(token, Op::Read { file: file_of(&[7; 100]), range: 0..100, memory: vec![0; 100] });
            // It may or may not be in time.
            uring.cancel(token, -1);
        }
        let mut ended = Vec::new();
        while uring.in_flight() > 0 {
            uring.wait(Some(PATIENCE), &mut ended).unwrap();
        }
        let mut reads = 0;
        for completion in ended {
            match completion.event {
                Event::Read(Ok(100), memory) => assert_eq!(memory, [7; 100]),
                Event::Read(Err(error), _) => assert!(crate::driver::is_cancelled(&error), "{error}"),
                Event::NotCancelled => continue,
                other => panic!("{other:?}"),
            }
            reads += 1;
        }
        assert_eq!(reads, 20);
    }
}

/// What is in flight when a ring ends is waited for, with its memory.
#[test]
fn a_ring_that_is_dropped_amid_reads_closes_their_files() {
    for mut uring in rings() {
        let file = file_of(&vec![7; 1 << 20]);
        for index in 0..30 {
            let memory = vec![0; 1 << 20];
            uring.submit(
                Token::new(Kind::Read, 1, index),
                Op::Read { file: file.clone(), range: 0..1 << 20, memory },
            );
        }
        drop(uring);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
