//! Peers that are known by names in certificates that an authority has signed: who is let in, and what is said to the
//! others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use std::fs;
use support::{Daemon, Place};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key of a daemon.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

struct Host {
    place: Place,
    daemon: Option<Daemon>,
    address: String,
}

impl Host {
    fn new(ca: &Ca, signed: &(String, String)) -> Host {
        let mut host = Host { place: Place::new(), daemon: None, address: String::new() };
        host.serve(ca, signed);
        host
    }

    /// Starts the daemon with this certificate, and again with another.
    fn serve(&mut self, ca: &Ca, (certificate, key): &(String, String)) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop();
        }
        let file = |name: &str, text: &str| {
            fs::write(self.place.path(name), text).unwrap();
            self.place.path(name).to_str().unwrap().to_owned()
        };
        let files = (file("ca", &ca.pem), file("cert", certificate), file("key", key));
        let address = if self.address.is_empty() { "127.0.0.1:0" } else { &self.address };
        let flags = ["--peer", address, "--peer-ca", &files.0, "--peer-cert", &files.1];
        let daemon = self.place.serve(&[&flags[..], &["--peer-key", &files.2]].concat());
        self.address = daemon.ready.split("peers on ").nth(1).unwrap().to_owned();
        self.daemon = Some(daemon);
    }

    fn knows(&self, name: &str, other: &Host, dns: &str, more: &[&str]) {
        self.place.ok(&[&["peer", "add", name, &other.address, "--name", dns], more].concat());
    }

    fn digest(&self, name: &str) -> String {
        let line = self.place.ok(&["image", "digest", name]);
        line.split_whitespace().next().unwrap().to_owned()
    }
}

#[test]
fn a_name_that_the_authority_has_signed_is_a_peer_and_nothing_else_is() {
    let (ca, other_ca) = (Ca::new("one"), Ca::new("other"));
    let plain = |_: &mut CertificateParams| {};
    let signed_a = ca.sign("a.example", plain);
    let signed_b = ca.sign("b.example", plain);
    let (mut a, mut b) = (Host::new(&ca, &signed_a), Host::new(&ca, &signed_b));
    let file = a.place.path("image");
    fs::write(&file, vec![7; 1 << 20]).unwrap();
    a.place.ok(&["image", "import", file.to_str().unwrap(), "web"]);

    // Not listed yet, though signed.
    a.knows("b", &b, "b.example", &[]);
    let push = |a: &Host, target: &str| a.place.fails(5, &["push", "web", &format!("b/{target}")]);
    let unlisted = push(&a, "web");
    assert!(unlisted.contains("does not know this one"), "{unlisted}");
    b.knows("a", &a, "A.example", &["--allow", "push", "--images", "web*"]);
    a.place.ok(&["push", "web", "b"]);
    assert_eq!(a.digest("web"), b.digest("web"));
    // What it may do is as narrow as ever.
    let outside = push(&a, "other");
    assert!(outside.contains("--images"), "{outside}");
    let pull = a.place.fails(5, &["pull", "b/web", "back"]);
    assert!(pull.contains("may not pull"), "{pull}");
    let listed = b.place.ok(&["peer", "list"]);
    assert!(listed.contains("a.example"), "{listed}");
    // A certificate of the authority for another name, which is not listed.
    a.serve(&ca, &ca.sign("c.example", plain));
    let renamed = push(&a, "web2");
    assert!(renamed.contains("does not know this one"), "{renamed}");
    // One that was valid, and one that will be.
    a.serve(&ca, &ca.sign("a.example", |it| it.not_after = date_time_ymd(2020, 1, 1)));
    let expired = push(&a, "web2");
    assert!(expired.contains("not valid at this time"), "{expired}");
    // Another authority, with the right name.
    a.serve(&ca, &other_ca.sign("a.example", plain));
    let foreign = push(&a, "web2");
    assert!(foreign.contains("nor the authority that signed it"), "{foreign}");
    // An authority that only calls itself the same.
    a.serve(&ca, &Ca::new("one").sign("a.example", plain));
    let forged = push(&a, "web2");
    assert!(forged.contains("nor the authority that signed it"), "{forged}");
    // The certificate is for servers alone.
    let server_only = |it: &mut CertificateParams| {
        it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    a.serve(&ca, &ca.sign("a.example", server_only));
    let purpose = push(&a, "web2");
    assert!(purpose.contains("does not accept this daemon's certificate"), "{purpose}");
    a.serve(&ca, &signed_a);

    // The same of the daemon that is called.
    b.serve(&ca, &ca.sign("c.example", plain));
    let named = push(&a, "web2");
    assert!(named.contains("is not accepted") && named.contains("b.example"), "{named}");
    b.serve(&ca, &ca.sign("b.example", |it| it.not_after = date_time_ymd(2020, 1, 1)));
    let expired = push(&a, "web2");
    assert!(expired.contains("is not accepted") && expired.contains("expired"), "{expired}");
    b.serve(&ca, &other_ca.sign("b.example", plain));
    let foreign = push(&a, "web2");
    assert!(foreign.contains("is not accepted") && foreign.contains("UnknownIssuer"), "{foreign}");
    b.serve(&ca, &signed_b);
    a.place.ok(&["push", "web", "b/web2"]);

    // Who is taken off the list is out, whatever is signed.
    b.place.ok(&["peer", "remove", "a"]);
    let removed = push(&a, "web3");
    assert!(removed.contains("does not know this one"), "{removed}");
    // A fingerprint does beside an authority.
    let fingerprint = a.place.ok(&["identity"]);
    b.place.ok(&["peer", "add", "a", &a.address, fingerprint.trim(), "--allow", "push"]);
    a.place.ok(&["push", "web", "b/web3"]);
    for host in [a, b] {
        host.daemon.unwrap().stop();
        host.place.ok(&["check", "--data", host.place.pool().to_str().unwrap()]);
    }
}

#[test]
fn what_is_wrong_with_the_files_or_the_list_is_told() {
    let ca = Ca::new("one");
    let (certificate, key) = ca.sign("a.example", |_| {});
    let (_, other_key) = ca.sign("b.example", |_| {});
    let place = Place::new();
    let write = |name: &str, text: &str| {
        fs::write(place.path(name), text).unwrap();
        place.path(name).to_str().unwrap().to_owned()
    };
    let (ca, cert, key) = (write("ca", &ca.pem), write("cert", &certificate), write("key", &key));
    let (other, empty) = (write("other", &other_key), write("empty", ""));
    let serve = |ca: &str, cert: &str, key: &str| {
        place.fails(2, &["serve", "--peer-ca", ca, "--peer-cert", cert, "--peer-key", key])
    };
    assert!(place.fails(2, &["serve", "--peer-ca", &ca]).contains("go together"));
    assert!(serve(&ca, &cert, &other).contains("do not go together"));
    assert!(serve(&empty, &cert, &key).contains("none in the file"));
    assert!(serve(&ca, &empty, &key).contains("no certificate"));
    assert!(serve(&ca, &cert, &cert).contains("key for peers"));
    let missing =
        place.run(&["serve", "--peer-ca", "/x", "--peer-cert", &cert, "--peer-key", &key]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");

    let daemon = place.serve(&[]);
    let add = ["peer", "add", "b", "127.0.0.1:1", "--name", "b.example"];
    assert!(place.fails(2, &add).contains("--peer-ca"));
    place.fails(2, &["peer", "add", "b", "127.0.0.1:1"]);
    daemon.stop();
    // Known by a name, to a daemon that has lost its authority.
    let daemon = place.serve(&["--peer-ca", &ca, "--peer-cert", &cert, "--peer-key", &key]);
    place.ok(&add);
    place.ok(&["image", "create", "web", "1M"]);
    daemon.stop();
    let daemon = place.serve(&[]);
    let lost = place.fails(5, &["push", "web", "b"]);
    assert!(lost.contains("start it with --peer-ca"), "{lost}");
    daemon.stop();
}
