//! How other threads reach a reactor and its connections.

pub(super) mod mailbox;
pub(super) mod outbox;
pub(super) mod reactor_handle;
pub(super) mod stream_handle;
pub(super) mod wake_queue;
