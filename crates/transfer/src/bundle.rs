//! Several connections that carry one conversation: its links. What a side says waits in one queue, from which each link takes the
//! next message when it has room for one. Messages are numbered, and passed on at the other end in that order,
//! whichever way they came; a link keeps no more than one that waits for its turn. A link that breaks ends the
//! conversation. What a link took and the other end does not hear would be waited for in vain: no end takes anything for a
//! link before it knows that the other has it.

use crate::message::{Message, nonsense};
use crate::v1;
use crate::wire::QUEUE;
use blockyard_block::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;

/// Links of one conversation: each may take 3 MiB, and a transfer shall take no more than 64.
pub(crate) const LINKS_MAX: usize = 6;

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

    /// To end the conversation later, if it has not ended by then.
    pub(crate) fn ender(&self) -> Ender {
        Ender { to_wire: self.to_wire.downgrade() }
    }

    /// In its turn, if it is a message. One without a number comes from a side with one link, and is passed on at once. False
    /// if nothing more is to be passed on.
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
        tokio::select! {
            _ = turn.wait_for(|turn| *turn >= number) => {} // its sender is ours
            () = self.to_wire.closed() => return false,
        }
        let Ok(place) = self.to_wire.reserve().await else { return false };
        self.turn.send_if_modified(|turn| {
            let its_turn = *turn == number;
            if its_turn {
                *turn = number.saturating_add(1);
                place.send(Ok(message));
            } else {
                place.send(Err(nonsense("two messages of one number")));
            }
            its_turn
        })
    }
}

/// Ends a conversation of which a link carries nothing more.
pub(crate) struct Ender {
    to_wire: mpsc::WeakSender<Result<v1::Message>>,
}

impl Ender {
    pub(crate) async fn end(self) {
        if let Some(to_wire) = self.to_wire.upgrade() {
            let error = Error::new(
                ErrorKind::Io,
                "the connection to the peer ended before the transfer did",
            );
            let _ = to_wire.send(Err(error)).await; // it may just have ended
        }
    }
}

/// What a link says that the other end is still to be known to have.
pub(crate) struct Opening {
    opened: oneshot::Receiver<Says>,
    says: Option<Says>,
    /// It begins with a message of its own, by which the other end knows.
    greets: bool,
}

impl Opening {
    /// It says nothing until it is given what; if that is dropped, it ends.
    pub(crate) fn new(greets: bool) -> (oneshot::Sender<Says>, Opening) {
        let (open, opened) = oneshot::channel();
        (open, Opening { opened, says: None, greets })
    }
}

impl Stream for Opening {
    type Item = v1::Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Message>> {
        if let Some(says) = &mut self.says {
            return Pin::new(says).poll_next(context);
        }
        match ready!(Pin::new(&mut self.opened).poll(context)) {
            Ok(says) => self.says = Some(says),
            Err(_) => return Poll::Ready(None),
        }
        match self.greets {
            true => Poll::Ready(Some(Message::Alive.encode())),
            false => self.poll_next(context),
        }
    }
}

#[cfg(test)]
mod tests;
