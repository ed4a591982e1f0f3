//! The server of files, as its users meet it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Server, backends, output};

/// Serves a directory `served`, beside which lies a file that is not.
fn serve(backend: &str) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("served");
    fs::create_dir_all(root.join("below")).unwrap();
    fs::write(directory.path().join("secret"), "nobody's business").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("small file"), "small").unwrap();
    fs::write(root.join("below/..hidden"), "a name that begins with dots").unwrap();
    fs::write(root.join("large"), large()).unwrap();
    let mut command = example("files");
    command.arg(&root).arg("127.0.0.1:0").env("TROCHUS_BACKEND", backend);
    (Server::start(command), directory)
}

fn large() -> Vec<u8> {
    (0..10_000_019u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// What a request is answered, head and body.
fn ask(server: &Server, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), body)
}

fn get(server: &Server, path: &str) -> (String, Vec<u8>) {
    ask(server, &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

#[test]
fn files_below_the_directory_are_served_and_nothing_else() {
    for backend in backends() {
        let (server, _directory) = serve(&backend);
        let (head, body) = get(&server, "/large");
        assert!(head.starts_with("HTTP/1.0 200 OK\r\nContent-Length: 10000019\r\n"), "{head}");
        assert!(body == large());
        for (path, expected) in [
            ("/empty", ""),
            ("/small%20file?not=looked&at", "small"),
            ("/below/..hidden", "a name that begins with dots"),
            ("/below//..hidden", "a name that begins with dots"),
        ] {
            let (head, body) = get(&server, path);
            assert!(head.starts_with("HTTP/1.0 200"), "{path}: {head}");
            assert_eq!(body, expected.as_bytes(), "{path}");
        }
        for path in [
            "/../secret",
            "/below/../../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/secret%00",
            "/%zz",
            "/%2",
            "/%ff",
            "/",
            "/below",
            "/nothing",
            "nothing",
        ] {
            let (head, body) = get(&server, path);
            assert!(head.starts_with("HTTP/1.0 404"), "{path}: {head}");
            assert_eq!(body, b"404 Not Found\n");
        }
        for (request, status) in [
            ("POST /large HTTP/1.1\r\n\r\n".to_owned(), "405"),
            ("GET\r\n\r\n".to_owned(), "400"),
            ("GET /large FTP\r\n\r\n".to_owned(), "400"),
            (format!("GET /{}", "x".repeat(10_000)), "431"),
        ] {
            assert!(ask(&server, &request).0.starts_with(&format!("HTTP/1.0 {status}")));
        }
        let (head, body) = ask(&server, "HEAD /large HTTP/1.1\r\nHost: here\r\n\r\n");
        assert!(head.contains("10000019") && body.is_empty());
        let (succeeded, text) = server.stop();
        assert!(succeeded, "{text}");
    }
}

#[test]
fn curl_gets_a_file() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("there is no curl here, so nothing is tested");
    }
    for backend in backends() {
        let (server, _directory) = serve(&backend);
        let got = output(Command::new("curl").args(["-sSf", &format!("http://{}/large", server.address)]));
        assert!(got.status.success() && got.stdout == large(), "{}", String::from_utf8_lossy(&got.stderr));
        let none = output(Command::new("curl").args(["-sSf", &format!("http://{}/none", server.address)]));
        assert!(!none.status.success());
        assert!(server.stop().0);
    }
}

/// Who asked is cut off, and the server says why.
#[test]
fn a_file_that_shrinks_is_told() {
    for backend in backends() {
        let (server, directory) = serve(&backend);
        let path = directory.path().join("served/shrinks");
        let file = fs::File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /shrinks HTTP/1.0\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0; 1_000]).unwrap();
        file.set_len(1_000_000).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        let end = stream.read_to_end(&mut Vec::new());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (succeeded, text) = server.stop();
        assert!(succeeded && text.contains("a file could not be sent"), "{text}");
    }
}
