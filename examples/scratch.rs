//! scratch
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use trochus::{
    Backend, Runtime,
    net::{Handler, Io, StreamOptions},
};
struct Sink(Arc<AtomicU64>, Arc<Vec<u8>>);
impl Handler for Sink {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        if std::env::var_os("VERIFY").is_some() {
            for c in bytes.chunks(65536) {
                assert!(c == &self.1[..c.len()]);
            }
        }
        self.0.store(self.0.load(Relaxed) + bytes.len() as u64, Relaxed);
        bytes.len()
    }
}
struct Source(Bytes);
impl Handler for Source {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write_bytes(self.0.clone());
    }
    fn on_drained(&mut self, io: &mut Io<'_>) {
        io.write_bytes(self.0.clone());
    }
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}
fn main() -> trochus::Result<()> {
    let size: usize = std::env::args().nth(1).map_or(256 << 10, |s| s.parse().unwrap());
    let per: usize = std::env::args().nth(2).map_or(1, |s| s.parse().unwrap());
    for backend in [Backend::IoUring, Backend::Fallback] {
        let rt = Runtime::builder().reactors(2).pin(true).backend(backend).build()?;
        let counts: Vec<Arc<AtomicU64>> = vec![];
        let counts = Arc::new(parking_lot::Mutex::new(counts));
        let c2 = counts.clone();
        let pat = Arc::new(vec![0u8; 1 << 20]);
        let server = rt.listen("127.0.0.1:0", move |_| {
            let c = Arc::new(AtomicU64::new(0));
            c2.lock().push(c.clone());
            Sink(c, pat.clone())
        })?;
        let data = Bytes::from(vec![0u8; size]);
        for i in 0..2 * per {
            let d = data.clone();
            rt.connect_on(i % 2, &StreamOptions::new(), server.local_addr(), move || Source(d))?;
        }
        let sum = || counts.lock().iter().map(|c| c.load(Relaxed)).sum::<u64>();
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..3 {
            let (t, b) = (Instant::now(), sum());
            std::thread::sleep(Duration::from_secs(1));
            let (e, n) = (t.elapsed().as_secs_f64(), sum() - b);
            println!("{backend} {size} x{per}: {:.1} Gbit/s", n as f64 * 8.0 / e / 1e9);
        }
        if std::env::var_os("M").is_some() {
            println!("{:#?}", rt.metrics());
        }
        println!(
            "opened {} {}",
            rt.reactor(0).metrics().connections_opened,
            rt.reactor(1).metrics().connections_opened
        );
        drop(rt);
    }
    Ok(())
}
