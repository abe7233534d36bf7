//! What `model` promises, one test for each promise.

use super::{Change, ImageModel, Model, Rule, SharedImage, Value};
use crate::content::{SECTOR, Tag};
use std::collections::BTreeMap;
use std::rc::Rc;

fn model() -> (Model, SharedImage) {
    let mut model = Model::default();
    let image = model.new_image("a", 1 << 20, true);
    let start = model.begin_change(Change::Create { image: Rc::clone(&image) });
    model.accept_change(start);
    (model, image)
}

fn tag(number: u64) -> Tag {
    Tag::new(number, 1)
}

fn write(model: &mut Model, image: &SharedImage, number: u64) {
    let ticket = model.begin_write(image, 0..1, |_| Value::Whole(tag(number)));
    model.end_write(image, ticket, true, false);
}

fn flush(model: &mut Model, image: &SharedImage) {
    let start = model.begin();
    model.end(start);
    image.borrow_mut().flushed(start);
}

/// Which of the first numbers sector 0 may hold; 0 is zeros.
fn possible(image: &ImageModel, rule: Rule) -> Vec<u64> {
    let holds = |number: &u64| {
        let mut bytes = [0; SECTOR];
        if *number > 0 {
            tag(*number).fill(&mut bytes, 0);
        }
        image.check_data(rule, 0, &bytes).is_ok()
    };
    (0..5).filter(holds).collect()
}

fn after_power_cut(image: &SharedImage) -> Vec<u64> {
    let image = image.borrow();
    possible(&image, image.medium_rule())
}

fn after_kill(model: &mut Model, image: &SharedImage) -> Vec<u64> {
    let since = model.now();
    possible(&image.borrow(), Rule::Cache { since })
}

#[test]
fn a_kill_keeps_the_last_acknowledged_value_and_a_power_cut_any_since_the_flush() {
    let (mut model, image) = model();
    write(&mut model, &image, 1);
    flush(&mut model, &image);
    write(&mut model, &image, 2);
    write(&mut model, &image, 3);
    assert_eq!(after_kill(&mut model, &image), [3]);
    assert_eq!(after_power_cut(&image), [1, 2, 3]);
    flush(&mut model, &image);
    assert_eq!(after_power_cut(&image), [3]);
}

#[test]
fn a_flush_covers_only_what_was_answered_before_it_began() {
    let (mut model, image) = model();
    let start = model.begin();
    write(&mut model, &image, 1);
    model.end(start);
    image.borrow_mut().flushed(start);
    assert_eq!(after_power_cut(&image), [0, 1]);
}

#[test]
fn a_durable_write_replaces_what_came_before_it() {
    let (mut model, image) = model();
    write(&mut model, &image, 1);
    let ticket = model.begin_write(&image, 0..1, |_| Value::Whole(tag(2)));
    model.end_write(&image, ticket, true, true);
    write(&mut model, &image, 3);
    assert_eq!(after_power_cut(&image), [2, 3]);
}

#[test]
fn of_concurrent_writes_either_may_be_the_last() {
    let (mut model, image) = model();
    let one = model.begin_write(&image, 0..1, |_| Value::Whole(tag(1)));
    let two = model.begin_write(&image, 0..1, |_| Value::Whole(tag(2)));
    model.end_write(&image, one, true, false);
    model.end_write(&image, two, true, false);
    assert_eq!(after_kill(&mut model, &image), [1, 2]);
}

#[test]
fn a_write_that_failed_or_is_in_flight_happened_or_not() {
    let (mut model, image) = model();
    write(&mut model, &image, 1);
    let failed = model.begin_write(&image, 0..1, |_| Value::Whole(tag(2)));
    model.end_write(&image, failed, false, true);
    let _in_flight = model.begin_write(&image, 0..1, |_| Value::Whole(tag(3)));
    assert_eq!(after_kill(&mut model, &image), [1, 2, 3]);
    assert!(image.borrow().certain_value(0).is_none());
    write(&mut model, &image, 4);
    assert_eq!(after_kill(&mut model, &image), [3, 4]);
}

#[test]
fn a_copy_holds_what_was_current_at_some_moment_of_its_making() {
    let (mut model, source) = model();
    write(&mut model, &source, 1);
    write(&mut model, &source, 2);
    let image = model.new_image("b", 1 << 20, false);
    let change = Change::Copy { source: Rc::clone(&source), image: Rc::clone(&image) };
    let start = model.begin_change(change);
    write(&mut model, &source, 3);
    model.accept_change(start);
    write(&mut model, &source, 4);
    assert_eq!(after_power_cut(&image), [2, 3]);
}

#[test]
fn open_changes_are_settled_by_what_the_pool_lists() {
    let (mut model, _) = model();
    let image = model.new_image("b", 512, true);
    model.begin_change(Change::Create { image });
    model.begin_change(Change::Resize { name: "a".into(), size: 1024 });
    let listed = BTreeMap::from([("a".to_owned(), 1024)]);
    model.settle_changes(&listed);
    assert_eq!(model.images.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(model.images["a"].borrow().size, 1024);
}

#[test]
fn a_shrunk_image_reads_zeros_where_it_grows_again() {
    let (mut model, image) = model();
    write(&mut model, &image, 1);
    for size in [0, 1024] {
        let start = model.begin_change(Change::Resize { name: "a".into(), size });
        model.accept_change(start);
    }
    assert_eq!(after_power_cut(&image), [0]);
}

#[test]
fn what_was_found_after_a_crash_is_the_truth() {
    let (mut model, image) = model();
    write(&mut model, &image, 1);
    write(&mut model, &image, 2);
    image.borrow_mut().settle(BTreeMap::from([(0, Value::Whole(tag(1)))]));
    assert_eq!(after_power_cut(&image), [1]);
}

#[test]
fn a_fence_is_given_to_one_only_and_not_over_writes_in_flight() {
    let (mut model, image) = model();
    let ticket = model.begin_write(&image, 4..8, |_| Value::ZEROS);
    assert!(!image.borrow_mut().fence(7..9));
    model.end_write(&image, ticket, true, false);
    assert!(image.borrow_mut().fence(7..9));
    assert!(!image.borrow_mut().fence(8..9));
    image.borrow_mut().unfence(&(7..9));
    assert!(image.borrow_mut().fence(8..9));
}
