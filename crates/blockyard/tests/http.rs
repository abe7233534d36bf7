//! Whatever reaches the control socket gets an answer in JSON, and the daemon goes on.

mod support;

use support::{Daemon, Place};

fn request(daemon: &Daemon, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let answer = daemon.http(text.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {answer:?}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn nonsense_is_refused_in_json() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let long = format!("{{\"name\":\"{}\",\"size_bytes\":512}}", "x".repeat(1 << 20));
    let cases: &[(&str, &str, &str, u16)] = &[
        ("GET", "/", "", 404),
        ("GET", "/v1/nothing", "", 404),
        ("PUT", "/v1/images", "", 405),
        ("POST", "/v1/pool/reclaim", "{\"runs_min\":0}", 400),
        ("POST", "/v1/pool/reclaim", "{\"target_bytes\":0}", 400),
        ("POST", "/v1/images", "", 400),
        ("POST", "/v1/images", "{", 400),
        ("POST", "/v1/images", "[]", 422),
        ("POST", "/v1/images", "{\"name\":\"a\"}", 422),
        ("POST", "/v1/images", "{\"name\":\"a\",\"size_bytes\":-1}", 422),
        ("POST", "/v1/images", "{\"name\":\"a\",\"size_bytes\":512,\"colour\":1}", 422),
        ("POST", "/v1/images", "{\"name\":\"a\",\"size_bytes\":513}", 400),
        ("POST", "/v1/images", "{\"name\":\"..\",\"size_bytes\":512}", 400),
        ("POST", "/v1/images", &long, 413),
        ("GET", "/v1/images/%ff", "", 400),
        ("GET", "/v1/images/..%2f..", "", 400),
        ("GET", "/v1/images/none/map?offset=x", "", 400),
        ("GET", "/v1/images/none/map?unknown=1", "", 400),
        ("GET", "/v1/images/none/map", "", 404),
        ("DELETE", "/v1/images/none?force=maybe", "", 400),
        ("POST", "/v1/images/a/import", "{\"path\":\"relative\"}", 400),
        ("POST", "/v1/images/a/import", "{\"path\":\"/x\",\"format\":\"vhdx\"}", 422),
        ("POST", "/v1/images/none/export", "{\"path\":\"/x\",\"format\":\"raw\"}", 404),
        ("GET", "/v1/jobs/77", "", 404),
        ("GET", "/v1/jobs/-1", "", 400),
        ("DELETE", "/v1/jobs/77", "", 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = request(&daemon, method, path, body);
        assert_eq!(status, *expected, "{method} {path} {answer}");
        assert!(answer["error"]["kind"].is_string(), "{method} {path}: {answer}");
        assert!(answer["error"]["message"].is_string(), "{method} {path}: {answer}");
    }
}

#[test]
fn bytes_that_are_not_http_hurt_nobody() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let header = format!("GET /v1/pool HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for bytes in [b"\0\xff\xfe garbage \r\n\r\n".as_slice(), b"GET", header.as_bytes()] {
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.api_socket()).unwrap();
        let _ = std::io::Write::write_all(&mut stream, bytes); // it may be refused half-way
    }
    let (status, pool) = request(&daemon, "GET", "/v1/pool", "");
    assert_eq!((status, &pool["images"]), (200, &0.into()));
}

#[test]
fn the_api_documents_itself() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let (status, document) = request(&daemon, "GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    assert!(document["openapi"].is_string());
    assert!(document["paths"]["/v1/images/{name}"]["delete"].is_object());
}
