//! What `executor` promises, one test for each promise.

use super::Executor;
use crate::SimWorld;
use blockyard_block::Buffer;
use blockyard_io::{Directory, Disk};
use std::cell::RefCell;
use std::rc::Rc;

/// The order in which eight concurrent writes complete.
fn completion_order(seed: u64) -> Vec<u64> {
    let world = SimWorld::new(seed);
    let mut executor = Executor::new(&world);
    let directory = world.directory();
    let disk = executor.run(async move { directory.create("data").await.unwrap() });
    let order = Rc::new(RefCell::new(Vec::new()));
    for index in 0..8 {
        let (disk, order) = (disk.clone(), Rc::clone(&order));
        drop(executor.spawn(async move {
            disk.write(index * 4096, Buffer::copy_of(&[1; 4096])).await.unwrap();
            order.borrow_mut().push(index);
        }));
    }
    executor.run_until_idle();
    order.take()
}

#[test]
fn a_seed_replays_a_run_and_another_seed_gives_another_order() {
    assert_eq!(completion_order(1), completion_order(1));
    assert_eq!(completion_order(1).len(), 8);
    assert!((2..10).any(|seed| completion_order(seed) != completion_order(1)));
}

#[test]
fn tasks_vanish_at_a_crash() {
    let world = SimWorld::new(1);
    let mut executor = Executor::new(&world);
    let directory = world.directory();
    let task = executor.spawn(async move { directory.sync().await });
    executor.run_steps(1);
    executor.kill();
    executor.run_until_idle();
    assert!(!task.is_done());
    assert_eq!((executor.unfinished(), world.pending()), (0, 0));
    assert_eq!(world.counters().kills, 1);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_future_that_nobody_wakes_is_a_deadlock() {
    Executor::new(&SimWorld::new(1)).run(std::future::pending::<()>());
}
