//! Jobs end, are told apart, are cancelled and forgotten.

use super::{Asked, FINISHED_KEPT, JobHandle, Jobs, RUNNING_MAX};
use blockyard_api::{JobKind, JobReport, JobState, ProgressUnit, ScrubReport};
use blockyard_block::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn report() -> JobReport {
    JobReport::Scrub(ScrubReport {
        clusters_checked: 1,
        clusters_skipped_untrusted: 0,
        clusters_damaged: 0,
        damage: Vec::new(),
        healed: Vec::new(),
        hashes_restored: 0,
        hashes_made: 0,
        hashes_lost: 0,
    })
}

fn start_endless(jobs: &Arc<Jobs>) -> Result<blockyard_api::Job, Error> {
    start_endless_of(jobs, JobKind::Import)
}

fn start_endless_of(jobs: &Arc<Jobs>, kind: JobKind) -> Result<blockyard_api::Job, Error> {
    jobs.start(kind, Some("web"), ProgressUnit::Bytes, run_endless)
}

fn run_endless(job: &JobHandle) -> Result<JobReport, Error> {
    job.set_total(100);
    loop {
        job.progress(50)?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a peer asks for, without end, once there is a place for it.
fn start_asked(jobs: &Arc<Jobs>, peer: &str, asked: Asked) -> Result<(), ErrorKind> {
    let (told, hear) = std::sync::mpsc::channel();
    let started = jobs.start_answer(Some(peer.to_owned()), move |job| {
        let placed = job.take_place(asked);
        told.send(placed.as_ref().map(drop).map_err(Error::kind)).unwrap();
        placed?;
        run_endless(job)
    });
    started.map_err(|error| error.kind())?;
    hear.recv().unwrap()
}

#[test]
fn a_job_ends_with_its_report() {
    let jobs = Arc::<Jobs>::default();
    let work = |_: &JobHandle| Ok(report());
    let job = jobs.start(JobKind::Scrub, None, ProgressUnit::Clusters, work).unwrap();
    let job = jobs.get(job.id, LONG).unwrap();
    assert_eq!((job.state, job.report), (JobState::Done, Some(report())));
}

#[test]
fn a_failed_job_says_why_and_a_panic_is_a_failure() {
    let jobs = Arc::<Jobs>::default();
    let fail = |_: &JobHandle| Err(Error::new(ErrorKind::NoSpace, "full"));
    let job = jobs.start(JobKind::Import, None, ProgressUnit::Bytes, fail).unwrap();
    let error = jobs.get(job.id, LONG).unwrap().error.unwrap();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("no space", "full"));
    let cancelled = jobs.cancel(job.id).unwrap();
    assert_eq!(cancelled.state, JobState::Failed, "that comes too late");
    let panic = |_: &JobHandle| panic!("on purpose");
    let job = jobs.start(JobKind::Import, None, ProgressUnit::Bytes, panic).unwrap();
    assert_eq!(jobs.get(job.id, LONG).unwrap().state, JobState::Failed);
}

#[test]
fn a_cancelled_job_ends_as_cancelled() {
    let jobs = Arc::<Jobs>::default();
    let job = start_endless(&jobs).unwrap();
    assert_eq!(jobs.get(job.id, Duration::ZERO).unwrap().state, JobState::Running);
    jobs.cancel(job.id).unwrap();
    assert_eq!(jobs.get(job.id, LONG).unwrap().state, JobState::Cancelled);
}

#[test]
fn the_log_of_a_cancelled_job_says_what_is_left_of_it() {
    let jobs = Arc::<Jobs>::default();
    let said_by = |kind| {
        let (sender, said) = std::sync::mpsc::channel();
        let work = move |job: &super::JobHandle| {
            loop {
                if let Err(error) = job.check() {
                    sender.send(error.to_string()).unwrap();
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let job = jobs.start(kind, None, ProgressUnit::Clusters, work).unwrap();
        jobs.cancel(job.id).unwrap();
        said.recv_timeout(LONG).unwrap()
    };
    assert_eq!(said_by(JobKind::Reclaim), "cancelled; what it freed stays free");
    assert_eq!(said_by(JobKind::Scrub), "cancelled; what it healed stays healed");
    assert_eq!(said_by(JobKind::Import), "cancelled; nothing of it remains");
}

#[test]
fn a_second_reclaim_is_refused_until_the_first_has_ended() {
    let jobs = Arc::<Jobs>::default();
    let first = start_endless_of(&jobs, JobKind::Reclaim).unwrap();
    start_endless_of(&jobs, JobKind::Scrub).unwrap();
    let refused = start_endless_of(&jobs, JobKind::Reclaim).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    let advice = format!("`blockyard job wait {}`", first.id);
    assert!(refused.message().contains(&advice), "{refused}");
    jobs.cancel(first.id).unwrap();
    jobs.get(first.id, LONG).unwrap();
    start_endless_of(&jobs, JobKind::Reclaim).unwrap();
    assert!(jobs.stop(LONG));
}

#[test]
fn too_many_jobs_at_once_are_refused_and_stopping_ends_all() {
    let jobs = Arc::<Jobs>::default();
    for _ in 0..RUNNING_MAX {
        start_endless(&jobs).unwrap();
    }
    assert_eq!(start_endless(&jobs).unwrap_err().kind(), ErrorKind::Busy);
    assert!(jobs.stop(LONG));
    assert_eq!(start_endless(&jobs).unwrap_err().kind(), ErrorKind::ShutDown);
    assert!(jobs.activities().is_empty());
}

#[test]
fn old_jobs_are_forgotten_and_unknown_ones_not_found() {
    let jobs = Arc::<Jobs>::default();
    for _ in 0..FINISHED_KEPT + 20 {
        let work = |_: &JobHandle| Ok(report());
        let job = jobs.start(JobKind::Scrub, None, ProgressUnit::Clusters, work).unwrap();
        jobs.get(job.id, LONG).unwrap();
    }
    assert!(jobs.list().len() <= FINISHED_KEPT + 1);
    assert_eq!(jobs.get(1, LONG).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(jobs.cancel(1).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_peers_ask_for_takes_no_place_of_users() {
    let jobs = Arc::<Jobs>::default();
    let import = start_endless(&jobs).unwrap();
    jobs.cancel(import.id).unwrap();
    jobs.get(import.id, LONG).unwrap();
    for _ in 0..FINISHED_KEPT + RUNNING_MAX {
        let ended = jobs.start_answer(None, |_| Ok(report()));
        jobs.get(ended.unwrap().id, LONG).unwrap();
    }
    jobs.get(import.id, Duration::ZERO).expect("peers make the daemon forget nobody else's jobs");
    let (most, of_peer) = Asked::Transfer.places();
    (0..most).for_each(|number| {
        start_asked(&jobs, ["a", "b"][number / of_peer], Asked::Transfer).unwrap();
    });
    assert_eq!(start_asked(&jobs, "c", Asked::Transfer), Err(ErrorKind::Busy));
    start_endless(&jobs).unwrap();
    assert!(jobs.stop(LONG));
}

#[test]
fn what_one_peer_asks_for_takes_no_place_of_others_nor_of_its_releases() {
    let jobs = Arc::<Jobs>::default();
    for asked in [Asked::Transfer, Asked::Fetch] {
        let (_, of_peer) = asked.places();
        (0..of_peer).for_each(|_| start_asked(&jobs, "a", asked).unwrap());
        assert_eq!(start_asked(&jobs, "a", asked), Err(ErrorKind::Busy));
        start_asked(&jobs, "b", asked).unwrap();
        start_asked(&jobs, "a", Asked::Briefly).unwrap();
    }
    let (_, of_peer) = Asked::Briefly.places();
    (0..of_peer).for_each(|_| start_asked(&jobs, "c", Asked::Briefly).unwrap());
    assert_eq!(start_asked(&jobs, "c", Asked::Briefly), Err(ErrorKind::Busy));
    start_asked(&jobs, "b", Asked::Briefly).unwrap();
    assert!(jobs.stop(LONG));
}
