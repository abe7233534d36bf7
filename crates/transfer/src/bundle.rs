//! Several connections that carry one conversation: its links. What a side says waits in one queue, from which each link takes the
//! next message when it has room for one. Messages are numbered, and passed on at the other end in that order,
//! whichever way they came; a link keeps no more than one that waits for its turn. A link that breaks ends the
//! conversation.

use crate::message::{Message, nonsense};
use crate::v1;
use crate::wire::QUEUE;
use blockyard_block::Result;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;

/// Links of one conversation.
pub(crate) const LINKS_MAX: usize = 8;

/// A conversation that links are added to. It does not keep them.
pub(crate) struct Bundle {
    queue: Weak<Queue>,
    to_wire: mpsc::WeakSender<Result<v1::Message>>,
    turn: Arc<watch::Sender<u64>>,
    links: AtomicUsize,
}

/// The ends of a wire that a bundle carries.
pub(crate) struct Ends {
    pub(crate) outgoing: mpsc::Sender<v1::Message>,
    pub(crate) incoming: mpsc::Receiver<Result<v1::Message>>,
}

/// What one connection carries.
pub(crate) struct Link {
    pub(crate) says: Says,
    pub(crate) hears: Hears,
}

impl Bundle {
    /// With its first link.
    pub(crate) fn new() -> (Bundle, Link, Ends) {
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let (to_wire, incoming) = mpsc::channel(QUEUE);
        let numbered = Numbered { messages, next: 1 };
        let queue = Arc::new(Queue { numbered: Mutex::new(numbered), waiting: Arc::default() });
        let turn = Arc::new(watch::Sender::new(1));
        let bundle = Bundle {
            queue: Arc::downgrade(&queue),
            to_wire: to_wire.downgrade(),
            turn: Arc::clone(&turn),
            links: AtomicUsize::new(1),
        };
        let link = Link { says: Says { queue }, hears: Hears { to_wire, turn } };
        (bundle, link, Ends { outgoing, incoming })
    }

    /// One more link, if the conversation goes on and may have it.
    pub(crate) fn link(&self) -> Option<Link> {
        let (queue, to_wire) = (self.queue.upgrade()?, self.to_wire.upgrade()?);
        let more = |links| (links < LINKS_MAX).then_some(links + 1);
        self.links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let turn = Arc::clone(&self.turn);
        Some(Link { says: Says { queue }, hears: Hears { to_wire, turn } })
    }

    /// Links that it had in all.
    pub(crate) fn links(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }
}

/// What a side says, for all links.
struct Queue {
    numbered: Mutex<Numbered>,
    waiting: Arc<Waiting>,
}

struct Numbered {
    messages: mpsc::Receiver<v1::Message>,
    /// The number of the next message.
    next: u64,
}

/// Links that wait for a message. All are woken by each: one of them may have no room any more.
#[derive(Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.lock();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Messages for a link to send, until the side has ended and all is said.
pub(crate) struct Says {
    queue: Arc<Queue>,
}

impl Stream for Says {
    type Item = v1::Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Message>> {
        let Queue { numbered, waiting } = &*self.queue;
        let mut numbered = numbered.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.add(context.waker());
        let all = Waker::from(Arc::clone(waiting));
        let message = ready!(numbered.messages.poll_recv(&mut Context::from_waker(&all)));
        Poll::Ready(message.map(|message| {
            let number = numbered.next;
            numbered.next += 1;
            v1::Message { number, ..message }
        }))
    }
}

/// Where a link passes on what it hears.
pub(crate) struct Hears {
    to_wire: mpsc::Sender<Result<v1::Message>>,
    /// The number of the message that is the next.
    turn: Arc<watch::Sender<u64>>,
}

impl Hears {
    /// Ready when nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.to_wire.closed().await;
    }

    /// In its turn, if it is a message; one without a number, which has but one link, at once. False if nothing more is to be
    /// passed on.
    pub(crate) async fn pass_on(&self, message: Result<v1::Message>) -> bool {
        let message = message.and_then(Message::bounded);
        let Ok(mut message) = message else {
            let _ = self.to_wire.send(message).await; // nobody may wait for it any more
            return false;
        };
        let number = std::mem::take(&mut message.number);
        if number == 0 {
            return self.to_wire.send(Ok(message)).await.is_ok();
        }
        let mut turn = self.turn.subscribe();
        let its_turn = tokio::select! {
            turn = turn.wait_for(|turn| *turn >= number) => turn.is_ok_and(|turn| *turn == number),
            () = self.to_wire.closed() => return false,
        };
        if !its_turn {
            let twice = nonsense("two messages of one number");
            let _ = self.to_wire.send(Err(twice)).await; // nobody may wait for it any more
            return false;
        }
        let passed = self.to_wire.send(Ok(message)).await.is_ok();
        self.turn.send_replace(number.saturating_add(1));
        passed
    }
}

#[cfg(test)]
mod tests;
