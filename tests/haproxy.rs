//! A real HAProxy in front, which says for whom it speaks. Where none is installed, there is nothing to be seen.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use trochus::Runtime;
use trochus::net::{Address, Handler, Incoming, Io, ListenOptions, ProxyProtocol};

const PATIENCE: Duration = Duration::from_secs(20);

/// Says who its peer is, and then what it is sent.
struct Says;

impl Handler for Says {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let text = format!("{}|", io.peer_addr());
        io.write(text.as_bytes());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "no proxy: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn haproxy_says_who_its_clients_are() {
    if !Command::new("haproxy").arg("-v").output().is_ok_and(|output| output.status.success()) {
        eprintln!("haproxy is not installed");
        return;
    }
    for backend in trochus::Backend::available() {
        for way in ["send-proxy", "send-proxy-v2"] {
            let runtime = Runtime::builder().backend(backend).build().unwrap();
            let options = ListenOptions::new().proxy_protocol(ProxyProtocol::new().trust("127.0.0.1"));
            let accept = |incoming: &Incoming<'_>| {
                assert!(matches!(incoming.peer(), Address::Tcp(_)));
                Says
            };
            let server = runtime.listen_with(&options, "127.0.0.1:0", accept).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("haproxy.cfg");
            let (time, address) = ("5s", server.local_addr());
            // It looks whether the server is there, and speaks for itself then.
            let settings = format!(
                "defaults\n  mode tcp\n  timeout connect {time}\n  timeout client {time}\n  timeout server {time}\n\
                 listen front\n  bind 127.0.0.1:{port}\n  server s {address} {way} check inter 50\n"
            );
            std::fs::write(&file, settings).unwrap();
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
            let _proxy = Proxy(command.spawn().unwrap());
            for n in 0..20 {
                let mut client = connect(port);
                let body = "x".repeat(n * 1000);
                client.write_all(body.as_bytes()).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                let mut text = String::new();
                client.read_to_string(&mut text).unwrap();
                assert_eq!(text, format!("{}|{body}", client.local_addr().unwrap()), "{way} on {backend}");
            }
            thread::sleep(Duration::from_millis(200));
            let metrics = runtime.metrics();
            assert_eq!(metrics.proxy_headers_refused, 0, "{metrics:?}");
            drop(server);
        }
    }
}
