//! How many items a second many threads hand over to one consumer, which adds them up.
//!
//! A measurement runs from the moment that all producing threads are let go until the consumer has the last item;
//! threads are started before. As many items may be outstanding everywhere: [`LANE`] for each producer. Every consumer takes what
//! is there, up to [`BATCH`] items, adds it up and counts it once.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use trochus::batch::Batcher;

/// Items in one iteration. Starting, waking and ending a thread costs about 100 µs, so that a thread must push for
/// much longer to show what a push costs: the faster the way in, the more items.
fn items(threads: u64, each: u64) -> u64 {
    (threads * each).max(1_000_000)
}

/// Items for each thread, by the order of magnitude of the way in.
const LANES: u64 = 100_000;
const SHARED: u64 = 20_000;
const PEERS: u64 = 2_000;

const BATCH: usize = 10_000;
/// Items that may be outstanding for each producer: what a batcher's lane holds unless told otherwise.
const LANE: usize = 8_192;

/// Runs `threads` producers, each with a push function of its own, and waits until `received` counts everything.
/// How long that took.
fn fan_in<P: FnMut(u64) + Send>(
    threads: u64,
    items: u64,
    received: &AtomicU64,
    mut producer: impl FnMut() -> P,
) -> Duration {
    let share = items / threads;
    let goal = received.load(Relaxed) + share * threads;
    let start = Barrier::new(threads as usize + 1);
    let ready = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (mut push, start, ready) = (producer(), &start, &ready);
            scope.spawn(move || {
                ready.fetch_add(1, Relaxed);
                start.wait();
                (0..share).for_each(&mut push);
            });
        }
        while ready.load(Relaxed) < threads {
            thread::sleep(Duration::from_micros(50));
        }
        // Before they run: on a busy machine this thread may be the last to leave the barrier.
        let started = Instant::now();
        start.wait();
        while received.load(Relaxed) < goal {
            thread::sleep(Duration::from_micros(50));
        }
        started.elapsed()
    })
}

fn add_up(items: &[u64], sum: &mut u64, received: &AtomicU64) {
    *sum = items.iter().fold(*sum, |sum, item| sum.wrapping_add(*item));
    black_box(*sum);
    received.fetch_add(items.len() as u64, Relaxed);
}

fn batcher(received: &Arc<AtomicU64>) -> Batcher<u64> {
    let (received, mut sum) = (Arc::clone(received), 0);
    let add = move |items: &mut Vec<u64>| add_up(items, &mut sum, &received);
    Batcher::builder().batch(BATCH).spawn(add).expect("a thread")
}

/// A channel's consumer: waits for an item, takes what else is there, and so on until the channel ends.
fn consume(
    received: &AtomicU64,
    mut wait: impl FnMut() -> Option<u64>,
    mut take: impl FnMut(usize, &mut Vec<u64>),
) {
    let (mut items, mut sum) = (Vec::with_capacity(BATCH), 0);
    while let Some(first) = wait() {
        items.push(first);
        take(BATCH - 1, &mut items);
        add_up(&items, &mut sum, received);
        items.clear();
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn lanes(group: &mut Group<'_>, threads: u64) {
    let received = Arc::new(AtomicU64::new(0));
    let batcher = batcher(&received);
    group.throughput(Throughput::Elements(items(threads, LANES)));
    group.bench_function(format!("lanes/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            fan_in(threads, iterations * items(threads, LANES), &received, || {
                let mut producer = batcher.producer();
                move |item| producer.push(item).expect("the consumer is there")
            })
        });
    });
    batcher.close().expect("the consumer does not fail");
}

fn shared(group: &mut Group<'_>, threads: u64) {
    let received = Arc::new(AtomicU64::new(0));
    let batcher = batcher(&received);
    group.throughput(Throughput::Elements(items(threads, SHARED)));
    group.bench_function(format!("shared/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            fan_in(threads, iterations * items(threads, SHARED), &received, || {
                |item| batcher.push(item).expect("the consumer is there")
            })
        });
    });
    batcher.close().expect("the consumer does not fail");
}

fn mpsc_bounded(group: &mut Group<'_>, threads: u64) {
    let received = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = mpsc::sync_channel::<u64>(LANE * threads as usize);
    let count = Arc::clone(&received);
    let consumer = thread::spawn(move || {
        let wait = || receiver.recv().ok();
        consume(&count, wait, |most, items| items.extend(receiver.try_iter().take(most)));
    });
    group.throughput(Throughput::Elements(items(threads, PEERS)));
    group.bench_function(format!("std-mpsc/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            fan_in(threads, iterations * items(threads, PEERS), &received, || {
                let sender = sender.clone();
                move |item| sender.send(item).expect("the consumer is there")
            })
        });
    });
    drop(sender);
    consumer.join().expect("the consumer does not fail");
}

fn crossbeam(group: &mut Group<'_>, threads: u64) {
    let received = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = crossbeam_channel::bounded::<u64>(LANE * threads as usize);
    let count = Arc::clone(&received);
    let consumer = thread::spawn(move || {
        let wait = || receiver.recv().ok();
        consume(&count, wait, |most, items| items.extend(receiver.try_iter().take(most)));
    });
    group.throughput(Throughput::Elements(items(threads, PEERS)));
    group.bench_function(format!("crossbeam-channel/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            fan_in(threads, iterations * items(threads, PEERS), &received, || {
                |item| sender.send(item).expect("the consumer is there")
            })
        });
    });
    drop(sender);
    consumer.join().expect("the consumer does not fail");
}

fn flume(group: &mut Group<'_>, threads: u64) {
    let received = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = flume::bounded::<u64>(LANE * threads as usize);
    let count = Arc::clone(&received);
    let consumer = thread::spawn(move || {
        let wait = || receiver.recv().ok();
        consume(&count, wait, |most, items| items.extend(receiver.try_iter().take(most)));
    });
    group.throughput(Throughput::Elements(items(threads, PEERS)));
    group.bench_function(format!("flume/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            fan_in(threads, iterations * items(threads, PEERS), &received, || {
                |item| sender.send(item).expect("the consumer is there")
            })
        });
    });
    drop(sender);
    consumer.join().expect("the consumer does not fail");
}

/// The batcher that everybody writes first: whoever fills the vector processes it.
fn mutex_vec(group: &mut Group<'_>, threads: u64) {
    let received = AtomicU64::new(0);
    let vector = Mutex::new(Vec::with_capacity(BATCH));
    group.throughput(Throughput::Elements(items(threads, PEERS)));
    group.bench_function(format!("mutex-vec/{threads}"), |bencher| {
        bencher.iter_custom(|iterations| {
            let share = iterations * items(threads, PEERS) / threads;
            fan_in(threads, iterations * items(threads, PEERS), &received, || {
                let (vector, received) = (&vector, &received);
                let (mut sum, mut left) = (0, share);
                move |item| {
                    let mut items = vector.lock().expect("nobody panics");
                    items.push(item);
                    left -= 1;
                    // A thread's last item flushes: nobody else would.
                    if items.len() == BATCH || left == 0 {
                        add_up(&items, &mut sum, received);
                        items.clear();
                    }
                }
            })
        });
    });
}

/// What an event loop does: items become bytes in an out buffer.
fn encode(group: &mut Group<'_>) {
    const ITEMS: usize = 4_096;
    group.throughput(Throughput::Elements(ITEMS as u64));
    let (batcher, mut consumer) = Batcher::<i32>::builder().batch(ITEMS).build();
    let mut producer = batcher.producer();
    let mut out: Vec<u8> = Vec::with_capacity(ITEMS * 4);
    let mut timed = |name: &str, drain: &mut dyn FnMut(&mut trochus::batch::Consumer<i32>, &mut Vec<u8>)| {
        group.bench_function(format!("drain/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    producer.push_all(0..ITEMS as i32).expect("the consumer is there");
                    out.clear();
                    let started = Instant::now();
                    drain(&mut consumer, &mut out);
                    spent += started.elapsed();
                    assert_eq!(black_box(&out).len(), ITEMS * 4);
                }
                spent
            });
        });
    };
    timed("items", &mut |consumer, out| {
        consumer.drain(ITEMS, |item| out.extend_from_slice(&item.to_be_bytes()));
    });
    timed("runs", &mut |consumer, out| {
        consumer.drain_runs(ITEMS, |run| {
            let start = out.len();
            out.resize(start + run.len() * 4, 0);
            for (bytes, item) in out[start..].chunks_exact_mut(4).zip(run.as_slice()) {
                bytes.copy_from_slice(&item.to_be_bytes());
            }
        });
    });
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for threads in [1, 16, 1_000] {
        lanes(&mut group, threads);
        shared(&mut group, threads);
        crossbeam(&mut group, threads);
        mutex_vec(&mut group, threads);
        // With a thousand threads these two spend so long on waking threads that a sample takes minutes.
        if threads < 1_000 {
            mpsc_bounded(&mut group, threads);
            flume(&mut group, threads);
        }
    }
    encode(&mut group);
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
