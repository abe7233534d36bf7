//! Jobs end, are told apart, are cancelled and forgotten.

use super::{ANSWERS_MAX, FINISHED_KEPT, Jobs, RUNNING_MAX};
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
    jobs.start(kind, Some("web"), ProgressUnit::Bytes, |job| {
        job.set_total(100);
        loop {
            job.progress(50)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

#[test]
fn a_job_ends_with_its_report() {
    let jobs = Arc::<Jobs>::default();
    let work = |_: &super::JobHandle| Ok(report());
    let job = jobs.start(JobKind::Scrub, None, ProgressUnit::Clusters, work).unwrap();
    let job = jobs.get(job.id, LONG).unwrap();
    assert_eq!((job.state, job.report), (JobState::Done, Some(report())));
}

#[test]
fn a_failed_job_says_why_and_a_panic_is_a_failure() {
    let jobs = Arc::<Jobs>::default();
    let fail = |_: &super::JobHandle| Err(Error::new(ErrorKind::NoSpace, "full"));
    let job = jobs.start(JobKind::Import, None, ProgressUnit::Bytes, fail).unwrap();
    let error = jobs.get(job.id, LONG).unwrap().error.unwrap();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("no space", "full"));
    let panic = |_: &super::JobHandle| panic!("on purpose");
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
        let work = |_: &super::JobHandle| Ok(report());
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
    for _ in 0..FINISHED_KEPT + ANSWERS_MAX {
        let ended = jobs.start(JobKind::Answer, None, ProgressUnit::Bytes, |_| Ok(report()));
        jobs.get(ended.unwrap().id, LONG).unwrap();
    }
    jobs.get(import.id, Duration::ZERO).expect("peers make the daemon forget nobody else's jobs");
    for _ in 0..ANSWERS_MAX {
        start_endless_of(&jobs, JobKind::Answer).unwrap();
    }
    let refused = start_endless_of(&jobs, JobKind::Answer).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    start_endless(&jobs).unwrap();
    assert!(jobs.stop(LONG));
}
