//! What carries messages between two machines, and spoils them.

use super::net::{Net, Task};
use crate::report::Count;
use blockyard_transfer::{Crossing, Heard, Said, Wire, wire_with_line};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// A connection: what happened to it.
#[derive(Default)]
pub(super) struct Connection {
    /// Anything that excuses a failure.
    pub(super) troubled: Cell<bool>,
    cut: Cell<bool>,
}

/// How bad a line is: one in so many messages meets each of these; 0 is never.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    late: u64,
    lost: u64,
    cut: u64,
    flipped: u64,
    /// Messages that nothing happens to at first.
    spared: u64,
}

impl Trouble {
    fn draw(net: &Net) -> Trouble {
        let calm = Trouble { late: 0, lost: 0, cut: 0, flipped: 0, spared: 0 };
        if net.calm.get() {
            return calm;
        }
        let spared = net.below(30);
        match net.below(10) {
            0..=3 => Trouble { late: 8, ..calm },
            4 => Trouble { late: 20, flipped: 6, spared, ..calm },
            5 => Trouble { late: 20, flipped: 20, ..calm },
            6 => Trouble { cut: 10, spared, ..calm },
            7 => Trouble { late: 10, cut: 25, ..calm },
            8 => Trouble { lost: 20, spared, ..calm },
            _ => Trouble { late: 15, lost: 60, cut: 60, flipped: 60, spared: 0 },
        }
    }
}

/// The two ends of a new connection, and the tasks that carry it.
pub(super) fn connect(net: &Rc<Net>) -> (Wire, Wire, Rc<Connection>, [Task; 2]) {
    let clock = Arc::new(net.clock.clone());
    let (one, one_said, one_heard) = wire_with_line(clock.clone());
    let (other, other_said, other_heard) = wire_with_line(clock);
    let connection = Rc::new(Connection::default());
    let trouble = Trouble::draw(net);
    net.trace(format_args!("a connection: {trouble:?}"));
    let carry = |said, heard| -> Task {
        let (net, connection) = (Rc::clone(net), Rc::clone(&connection));
        Box::pin(async move { carry(&net, &connection, trouble, said, heard).await })
    };
    let tasks = [carry(one_said, other_heard), carry(other_said, one_heard)];
    (one, other, connection, tasks)
}

async fn carry(
    net: &Net,
    connection: &Connection,
    mut trouble: Trouble,
    mut said: Said,
    heard: Heard,
) {
    let meets = |chances: u64| chances > 0 && net.below(chances) == 0;
    while let Some(mut crossing) = said.next().await {
        if connection.cut.get() {
            return;
        }
        net.note(Count::Messages);
        if trouble.spared > 0 {
            trouble.spared -= 1;
        } else {
            if meets(trouble.late) {
                net.note(Count::MessagesLate);
                let ms = [3, 300, 8_000][net.below(3) as usize];
                net.clock.sleep_ms(net.below(ms)).await;
            }
            if meets(trouble.lost) {
                net.note(Count::MessagesLost);
                connection.troubled.set(true);
                net.trace(format_args!("{} is lost", crossing.name));
                continue;
            }
            // Where something has come a cut is of most interest, and seldom.
            let cut = if crossing.name == "Clusters" { trouble.cut.min(3) } else { trouble.cut };
            if meets(cut) {
                net.note(Count::LinesCut);
                connection.troubled.set(true);
                net.trace(format_args!("cut off at {}", crossing.name));
                connection.cut.set(true);
                return;
            }
            if meets(trouble.flipped) && flip(net, &mut crossing) {
                net.note(Count::MessagesChanged);
                connection.troubled.set(true);
            }
        }
        if !heard.pass_on(&crossing.bytes).await {
            return;
        }
    }
    // The side has ended: the other learns of it at once, late, or not at all, as after a power cut.
    match net.below(6) {
        _ if net.calm.get() => {}
        0..=3 => {}
        4 => net.clock.sleep_ms(net.below(3_000)).await,
        _ => net.clock.sleep_ms(net.below(100_000)).await,
    }
}

/// Flips a bit. Which image is asked for is left alone: another one would be moved, as asked.
fn flip(net: &Net, crossing: &mut Crossing) -> bool {
    if crossing.name == "Order" || crossing.bytes.is_empty() {
        return false;
    }
    let at = net.below(crossing.bytes.len() as u64) as usize;
    crossing.bytes[at] ^= 1 << net.below(8);
    net.trace(format_args!("a bit of byte {at} of {} flips", crossing.name));
    if crossing.name == "Clusters" {
        net.note(Count::ClustersChanged);
    }
    true
}
