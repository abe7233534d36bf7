//! What is between two wires, for whoever carries messages as bytes and may lose, delay or change them: simulations.

use crate::message::Message;
use crate::v1;
use crate::wire::{Clock, QUEUE, Wire};
use blockyard_block::{Error, ErrorKind, Result};
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a side says.
pub struct Said {
    messages: mpsc::Receiver<v1::Message>,
}

/// What a side hears.
pub struct Heard {
    messages: mpsc::Sender<Result<v1::Message>>,
}

/// A message on its way.
pub struct Crossing {
    /// In the .proto, for traces.
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// A wire whose time is `clock`'s, and its other end.
pub fn wire_with_line(clock: Arc<dyn Clock>) -> (Wire, Said, Heard) {
    let (outgoing, said) = mpsc::channel(QUEUE);
    let (heard, incoming) = mpsc::channel(QUEUE);
    let wire = Wire::with_clock(clock, outgoing, incoming);
    (wire, Said { messages: said }, Heard { messages: heard })
}

impl Said {
    /// `None` when the side has ended, and everything that it said was passed on.
    pub async fn next(&mut self) -> Option<Crossing> {
        let message = self.messages.recv().await?;
        let bytes = message.encode_to_vec();
        let name = Message::decode(message).map_or("no message", |message| message.name());
        Some(Crossing { name, bytes })
    }
}

impl Heard {
    /// False if the side hears no more. Bytes that are no message end the conversation, as on any line.
    pub async fn pass_on(&self, bytes: &[u8]) -> bool {
        let garbled = |error| Error::new(ErrorKind::Io, format!("what came is garbled: {error}"));
        self.messages.send(v1::Message::decode(bytes).map_err(garbled)).await.is_ok()
    }

    /// Ready when the side hears no more.
    pub async fn closed(&self) {
        self.messages.closed().await;
    }
}
