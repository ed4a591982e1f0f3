use trochus::{
    Runtime,
    net::{Handler, Io},
};

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }

    fn on_close(&mut self, reason: &trochus::net::CloseReason) {
        eprintln!("closed: {reason}");
    }
}

fn main() -> trochus::Result<()> {
    let runtime = Runtime::new()?;
    let server = runtime.listen("[::]:7000", |_peer| Echo)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    runtime.run_until_interrupted()
}
