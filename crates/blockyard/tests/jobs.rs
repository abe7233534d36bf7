//! Jobs from the command line: listed, shown, waited for and cancelled by whoever did not start them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use support::peers::{Host, MIB, content, number};
use support::{Daemon, Place};

/// Starts a command that goes on by itself.
fn spawn(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.place.command();
    command.arg("--pool").arg(host.place.pool()).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A push from a to b at this rate, whose client was killed: its number.
fn abandoned_push(a: &Host, b: &Host, rate: &str) -> String {
    a.knows("b", b, &[]);
    b.knows("a", a, &["--allow", "push"]);
    a.import("web", &content(1, 32));
    let mut client = spawn(a, &["push", "web", "b", "--rate", rate, "--compress", "none"]);
    let mut found = None;
    support::eventually("a push that moves", || {
        let jobs = a.place.json(&["job", "list"])["jobs"].as_array().unwrap().clone();
        let push = jobs.iter().find(|job| job["kind"] == "push");
        found = push.filter(|job| job["transfer"]["bytes_moved"].as_u64() > Some(MIB)).cloned();
        found.is_some()
    });
    client.kill().unwrap();
    client.wait().unwrap();
    number(&found.unwrap(), "id").to_string()
}

#[test]
fn a_transfer_whose_client_was_killed_is_found_shown_and_cancelled() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    let id = abandoned_push(&a, &b, "1M");
    let list = a.place.ok(&["job", "list"]);
    let line = list.lines().find(|line| line.contains("push")).unwrap();
    for part in ["web", "running", " of 24.0 MiB, ", " saved, ", "/s, ", " s left"] {
        assert!(line.contains(part), "no {part:?} in {list}");
    }
    let shown = a.place.ok(&["job", "show", &id]);
    for part in ["push", "web", "running", "moved:", "saved:", "rate:", "time left:"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let twice = a.place.fails(7, &["push", "web", "b"]);
    assert!(twice.contains(&format!("job {id} does that already")), "{twice}");
    let waiting = spawn(&a, &["job", "wait", &id]);
    let cancelled = a.place.ok(&["job", "cancel", &id]);
    assert!(cancelled.contains("push of web cancelled; nothing of it remains"), "{cancelled}");
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!((waited.status.code(), waited.stdout), (Some(130), Vec::new()));
    assert_eq!(a.place.json(&["job", "show", &id])["state"], "cancelled");
    let late = a.place.fails(2, &["job", "cancel", &id]);
    assert!(late.contains("has ended already: cancelled"), "{late}");
    assert_eq!(b.images(), 0);
    a.end();
    b.end();
}

#[test]
fn who_waits_for_a_job_sees_its_progress_and_its_end_and_may_leave_before() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    let id = abandoned_push(&a, &b, "3M");
    let waiting = spawn(&a, &["job", "wait", &id]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    let left = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(left.stderr).unwrap();
    assert_eq!(left.status.code(), Some(130), "{said}");
    assert!(said.contains(&format!("job {id} goes on")), "{said}");
    let waited = a.place.run(&["job", "wait", &id, "--json"]);
    assert!(waited.err.contains("push of web: ") && waited.err.contains(" saved, "), "{waited:?}");
    let job: Value = serde_json::from_str(&waited.ok()).unwrap();
    assert_eq!(job["state"], "done");
    assert_eq!(number(&job["report"]["transfer"], "bytes_missing"), 24 * MIB, "{job}");
    assert_eq!(a.digest("web"), b.digest("web"));
    let again = a.place.ok(&["job", "wait", &id]);
    assert!(again.contains("push of web: done") && again.contains("24.0 MiB of data crossed"));
    a.end();
    b.end();
}

#[test]
fn who_waits_for_a_job_is_told_of_what_failed_and_what_is_damaged() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    assert!(place.ok(&["job", "list"]).contains("no jobs run"));
    for what in ["show", "wait", "cancel"] {
        let unknown = place.fails(3, &["job", what, "999"]);
        assert!(unknown.contains("there is no job 999"), "{unknown}");
        place.fails(2, &["job", what, "one"]);
    }
    let bytes = content(2, 4);
    let file = place.path("import.img");
    fs::write(&file, &bytes).unwrap();
    place.ok(&["image", "import", file.to_str().unwrap(), "web"]);
    let last = || {
        let jobs = place.json(&["job", "list"])["jobs"].as_array().unwrap().clone();
        number(jobs.last().unwrap(), "id").to_string()
    };
    let waited = place.ok(&["job", "wait", &last()]);
    assert_eq!(waited, "import of web: done\nimported web of 4.0 MiB\n");

    let nowhere = place.path("nowhere/web.raw");
    let failed = place.run(&["image", "export", "web", nowhere.to_str().unwrap()]);
    let waited = place.run(&["job", "wait", &last()]);
    assert_eq!((waited.status.code(), waited.err), (failed.status.code(), failed.err));
    assert!(place.ok(&["job", "show", &last()]).contains("error:"));
    let late = place.fails(2, &["job", "cancel", &last()]);
    assert!(late.contains("has ended already: failed"), "{late}");

    let stored = fs::read(place.pool().join("data")).unwrap();
    let wanted = &bytes[4096 * 100..4096 * 101];
    let at = stored.chunks(4096).position(|cluster| cluster == wanted).unwrap() * 4096;
    let data = fs::File::options().write(true).open(place.pool().join("data")).unwrap();
    data.write_all_at(&[0x55; 512], at as u64).unwrap();
    data.sync_all().unwrap();
    let found = place.run(&["scrub"]);
    assert_eq!(found.status.code(), Some(8), "{found:?}");
    let waited = place.run(&["job", "wait", &last()]);
    assert_eq!((waited.status.code(), waited.err), (Some(8), found.err));
    assert!(waited.out.ends_with(&found.out), "{}", waited.out);
    daemon.kill();
}

/// A request to the daemon: the status and the answer.
fn ask(daemon: &Daemon, method: &str, path: &str, body: &str) -> (String, Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = daemon.http(request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().to_owned();
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn a_reclaim_keeps_others_away_and_tells_what_it_freed_when_it_is_cancelled() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let file = place.path("import.img");
    fs::write(&file, content(3, 64)).unwrap();
    for name in ["one", "two"] {
        place.ok(&["image", "import", file.to_str().unwrap(), name]);
    }
    let (status, job) = ask(&daemon, "POST", "/v1/pool/reclaim", "{}");
    assert_eq!(status, "202");
    let id = number(&job, "id").to_string();
    let (status, refused) = ask(&daemon, "POST", "/v1/pool/reclaim", "{\"dry_run\": true}");
    assert_eq!(status, "409");
    let advice = format!("`blockyard job wait {id}`");
    assert!(refused["error"]["message"].as_str().unwrap().contains(&advice), "{refused}");
    ask(&daemon, "DELETE", &format!("/v1/jobs/{id}"), "");
    assert_eq!(place.run(&["job", "wait", &id]).status.code(), Some(130));
    let job = place.json(&["job", "show", &id]);
    let note = job["notes"][0].as_str().unwrap();
    assert!(note.contains("B were freed before it was cancelled"), "{note}");
    assert!(daemon.log().contains("cancelled; what it freed stays free"), "{}", daemon.log());
}
