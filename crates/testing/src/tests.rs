//! The environment belongs to the whole process, so what reads it is tested by its parts.

use super::{append, have_programs};

#[test]
fn lines_of_the_log_stay_whole_when_many_tests_skip_at_once() {
    let log = std::env::temp_dir().join(format!("blockyard-skips-{}", std::process::id()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| append(&log, "skipped: a test: a reason\n")));
        }
    });
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert_eq!(text.lines().count(), 400);
    assert!(text.lines().all(|line| line == "skipped: a test: a reason"));
}

#[test]
fn a_program_that_is_there_is_found() {
    assert!(have_programs(&["sh", "cat"]));
}
