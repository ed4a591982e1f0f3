//! One member's connection.

use crate::hall::{self, Change, Event};
use bytes::Bytes;
use std::fmt::Write;
use std::sync::Arc;
use trochus::Reactor;
use trochus::codec::{Decode, Decoded, Lines};
use trochus::net::{CloseReason, ConnectionId, Handler, Io};

/// The longest line, in bytes.
const LINE: usize = 4 << 10;

/// The longest name of a member or a room, in bytes.
const NAME: usize = 24;

/// Bytes that a member may have under way, which some reactor has not given to all its members yet, before it is not read.
const UNDER_WAY: usize = 128 << 10;

const FIRST_ROOM: &str = "lobby";

pub(crate) struct Member {
    id: Option<ConnectionId>,
    name: Arc<str>,
    room: Arc<str>,
    lines: Lines,
    under_way: usize,
    /// What it did since it was last published.
    events: Vec<Event>,
    /// What it said since the last event.
    said: String,
    /// The others know that it left, or need not know.
    has_left: bool,
}

impl Member {
    pub(crate) fn new() -> Self {
        Member {
            id: None,
            name: "".into(),
            room: FIRST_ROOM.into(),
            lines: Lines::new().max_line_bytes(LINE),
            under_way: 0,
            events: Vec::new(),
            said: String::new(),
            has_left: false,
        }
    }

    /// So many bytes of what it said have been given to everybody.
    pub(crate) fn taken(&mut self, io: &mut Io<'_>, bytes: usize) {
        self.under_way -= bytes;
        if self.under_way <= UNDER_WAY / 2 {
            io.resume_reading();
        }
    }

    fn line(&mut self, io: &mut Io<'_>, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest.trim()) {
            ("/join", room) => self.join(io, room),
            ("/nick", name) => self.rename(io, name),
            ("/who", _) => {
                io.write(format!("* {} has {}\n", self.room, hall::names(&self.room).join(", ")).as_bytes())
            }
            (word, _) if word.starts_with('/') => io.write(b"* there are /join ROOM, /nick NAME and /who\n"),
            _ if line.is_empty() => {}
            _ => {
                let shown = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c });
                self.said.extend([&self.name, ": "]);
                self.said.extend(shown);
                self.said.push('\n');
            }
        }
    }

    fn join(&mut self, io: &mut Io<'_>, room: &str) {
        if !is_name(room) || hall::is_taken(room, &self.name, io.id()) {
            let why =
                if is_name(room) { "somebody there has your name" } else { "that is no name for a room" };
            return io.write(format!("* {why}\n").as_bytes());
        }
        if *room != *self.room {
            self.leave("went to another room");
            self.room = room.into();
            self.enter();
            // What follows, such as `/who`, is to find it there.
            self.publish(io);
        }
        io.write(format!("* you are in {room}\n").as_bytes());
    }

    fn rename(&mut self, io: &mut Io<'_>, name: &str) {
        if !is_name(name) || hall::is_taken(&self.room, name, io.id()) {
            let why = if is_name(name) { "somebody here has that name" } else { "that is no name" };
            return io.write(format!("* {why}\n").as_bytes());
        }
        let text = format!("* {} is {name} from now on\n", self.name);
        self.name = name.into();
        self.happens(Change::IsHere(self.name.clone()), text);
        self.publish(io);
        io.write(format!("* you are {name}\n").as_bytes());
    }

    fn enter(&mut self) {
        self.happens(Change::IsHere(self.name.clone()), format!("* {} is here\n", self.name));
    }

    fn leave(&mut self, why: &str) {
        self.happens(Change::Left, format!("* {} left: {why}\n", self.name));
    }

    fn happens(&mut self, change: Change, text: String) {
        self.end_said();
        self.events.push(Event { room: self.room.clone(), change, text: text.into() });
    }

    /// Lines that were said one behind the other are shown together.
    fn end_said(&mut self) {
        if !self.said.is_empty() {
            let text = Bytes::from(std::mem::take(&mut self.said));
            self.events.push(Event { room: self.room.clone(), change: Change::Said, text });
        }
    }

    fn publish(&mut self, io: &mut Io<'_>) {
        self.end_said();
        if !self.events.is_empty() {
            self.under_way += hall::publish(io, std::mem::take(&mut self.events));
        }
    }

    /// Closes the connection and says why, to it and to the others.
    fn end(&mut self, io: &mut Io<'_>, why: &str) {
        self.leave(why);
        self.publish(io);
        self.has_left = true;
        io.write(format!("* this is the end: {why}\n").as_bytes());
        io.close();
    }
}

impl Handler for Member {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.id = Some(io.id());
        self.name = format!("guest{}", io.id()).into();
        let mut welcome = String::new();
        let _ = writeln!(welcome, "* you are {}", self.name);
        let _ = writeln!(welcome, "* you are in {}: /join ROOM, /nick NAME, /who", self.room);
        io.write(welcome.as_bytes());
        self.enter();
        self.publish(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        loop {
            if self.under_way + self.said.len() > UNDER_WAY {
                io.pause_reading();
                break;
            }
            match self.lines.decode(&bytes[consumed..]) {
                Ok(Decoded::Item { item, consumed: bytes }) => {
                    consumed += bytes;
                    self.line(io, item);
                }
                Ok(Decoded::NeedMore { .. }) => break,
                Err(error) => {
                    self.end(io, &error.to_string());
                    return bytes.len();
                }
            }
        }
        self.publish(io);
        consumed
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.end(io, "goodbye");
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        io.clear_timer();
        hall::has_room(&self.room, io.id());
    }

    /// It was behind for so long.
    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.end(io, "reads too slowly");
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // Nobody hears it any more.
        self.has_left = true;
        io.write(b"* the chat ends, goodbye\n");
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if let Some(id) = self.id.filter(|_| !self.has_left) {
            let text = format!("* {} left: {reason}\n", self.name).into();
            hall::publish_end(id, Event { room: self.room.clone(), change: Change::Left, text });
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= NAME && name.chars().all(is_plain)
}
