//! One subscriber, and the check of all that it receives against the plain model.
//!
//! Its own parser reads its bytes. Whatever moves its position (an event, an id-only block, a gap) claims that it has
//! been given everything up to there; the claim is checked at once.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::RangeInclusive,
    rc::Rc,
    time::Instant,
};

use serde_json::Value;
use tidings::{
    event::EventId,
    frame::{Encoding, Format, Framing, GapReason, Marks},
};

use super::{
    history::{Fact, History},
    peer::Pipe,
};
use crate::harness::{
    chunks::Chunks,
    parser::{Block, Parser},
};

mod ending;
mod notice;

use ending::without_stop;
use notice::Notice;

/// One subscriber.
#[derive(Debug)]
pub struct Client {
    pub pipe: Rc<RefCell<Pipe>>,
    pub encoding: Encoding,
    pub marks: Marks,
    /// The topics it asked for.
    pub asked: Vec<usize>,
    /// Those of them that it still has: with its only one deleted, none.
    pub topics: Vec<usize>,
    /// For a topic that it was told was deleted: the positions between which one of its deletions must be.
    deletions: BTreeMap<usize, RangeInclusive<u64>>,
    pub ends_at: Option<Instant>,
    pub right_ends_at: Option<Instant>,
    /// When an operator has ended its stream.
    pub ended_at: Option<Instant>,
    /// It was told why its stream ends: because its right has ended, or by an operator.
    end_notice: Option<String>,
    /// What the hub holds on its behalf is still held.
    pub held: Rc<Cell<bool>>,
    /// The watermark when it subscribed.
    placed: u64,
    /// It has been given everything up to here.
    pos: u64,
    /// It has been told of what was removed up to a stamp between these: a notice may be long under way.
    told: RangeInclusive<usize>,
    chunks: Option<Chunks>,
    parser: Parser,
    line: Vec<u8>,
    last_id: String,
}

impl Client {
    /// A subscriber that was placed after `pos`, now. What was removed before is no loss of this stream's.
    pub fn new(
        pipe: Rc<RefCell<Pipe>>,
        (encoding, marks): (Encoding, Marks),
        asked: Vec<usize>,
        pos: u64,
        history: &History,
    ) -> Self {
        Self {
            pipe,
            encoding,
            marks,
            chunks: (encoding.framing == Framing::Chunked).then(Chunks::default),
            topics: asked.clone(),
            deletions: BTreeMap::new(),
            asked,
            ends_at: None,
            right_ends_at: None,
            ended_at: None,
            end_notice: None,
            held: Rc::new(Cell::new(true)),
            placed: history.watermark,
            pos,
            told: history.stamp..=history.stamp,
            parser: Parser::default(),
            line: Vec::new(),
            last_id: EventId { epoch: history.epoch, seq: pos }.to_string(),
        }
    }

    /// The id it would resume with.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// How many fields of this name it has been sent; with "", how many comments.
    pub fn fields(&self, name: &str) -> usize {
        self.parser.lines.iter().filter(|line| *line == name).count()
    }

    /// Reads what HTTP wrote before the hand-over, which is always whole: the preamble, the gap if there was one, and which
    /// topics were deleted.
    pub fn begin(
        &mut self,
        bytes: &[u8],
        gap: Option<(GapReason, &str)>,
        deleted: &[usize],
        history: &History,
    ) -> Result<(), String> {
        let mut blocks = self.parse(bytes)?;
        if self.marks == Marks::Event && self.encoding.format != Format::Lines {
            let opening =
                blocks.first().filter(|block| block.event == "broker.open").ok_or("it begins with no opening")?;
            if self.seq(Notice::read(opening)?.text("cursor")?, history)? != self.pos {
                return Err(format!("it was placed after {}: {opening:?}", self.pos));
            }
            blocks.remove(0);
        }
        let notices =
            blocks.split_off(blocks.iter().position(|block| block.event == "broker.deleted").unwrap_or(blocks.len()));
        let names: Result<Vec<String>, String> =
            notices.iter().map(|block| Ok(Notice::read(block)?.text("topic")?.to_owned())).collect();
        if !deleted.iter().map(|topic| history.names[*topic].as_str()).eq(names?.iter().map(String::as_str)) {
            return Err(format!("{deleted:?} were deleted: {notices:?}"));
        }
        match (&blocks[..], gap) {
            ([], None) => {}
            ([block], Some((reason, requested))) => {
                let notice = Notice::read(block)?;
                let expected = (reason.as_str(), requested, self.pos);
                let resumed_after = self.seq(notice.text("resumed_after")?, history)?;
                if (notice.text("reason")?, notice.text("requested")?, resumed_after) != expected {
                    return Err(format!("the gap should be {expected:?}: {notice:?}"));
                }
            }
            _ => return Err(format!("the stream begins with {blocks:?}")),
        }
        if self.last_id != (EventId { epoch: history.epoch, seq: self.pos }).to_string() {
            return Err(format!("the stream begins at {}, it was placed after {}", self.last_id, self.pos));
        }
        Ok(())
    }

    /// Reads what has arrived.
    pub fn receive(&mut self, history: &History) -> Result<(), String> {
        let (bytes, made_from) = self.pipe.borrow_mut().read();
        if bytes.is_empty() {
            return Ok(());
        }
        for block in self.parse(&bytes)? {
            match block.event.as_str() {
                "broker.gap" => self.gap(&block, made_from, history)?,
                "broker.deleted" => self.deleted(&block, history)?,
                "broker.unauthorized" | "broker.ended" => self.end_notice(&block)?,
                _ => self.event(&block, history)?,
            }
        }
        let to = self.seq(&self.last_id, history)?;
        if to < self.pos {
            return Err(format!("its cursor went back from {} to {to}", self.pos));
        }
        self.advance(to, history)
    }

    /// The blocks in `bytes`. Of a line of NDJSON `data` is the whole object.
    fn parse(&mut self, bytes: &[u8]) -> Result<Vec<Block>, String> {
        let decoded = self.chunks.as_mut().map(|chunks| chunks.feed(bytes));
        let bytes = decoded.as_deref().unwrap_or(bytes);
        if self.encoding.format != Format::Lines {
            let blocks = self.parser.feed(bytes);
            if !self.parser.last_event_id.is_empty() {
                self.last_id = without_stop(&self.parser.last_event_id);
            }
            return Ok(blocks);
        }
        let mut blocks = Vec::new();
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            if line == b"\n" {
                continue;
            }
            let object: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
            if let Some(id) = object["id"].as_str() {
                self.last_id = without_stop(id);
            }
            let event = object["event"].as_str().unwrap_or("message").to_owned();
            let notice = event.starts_with("broker.");
            let data = if notice { object["data"].to_string() } else { object.to_string() };
            blocks.push(Block { event, id: self.last_id.clone(), data });
        }
        Ok(blocks)
    }

    fn seq(&self, id: &str, history: &History) -> Result<u64, String> {
        let id = EventId::parse(id).filter(|id| id.epoch == history.epoch);
        id.map(|id| id.seq).ok_or_else(|| format!("its cursor is {:?}", self.last_id))
    }

    /// Takes the claim that it has everything up to `to`.
    fn advance(&mut self, to: u64, history: &History) -> Result<(), String> {
        self.has_all(to, history)?;
        self.pos = self.pos.max(to);
        Ok(())
    }

    fn has_all(&self, to: u64, history: &History) -> Result<(), String> {
        if to > history.watermark {
            return Err(format!("it was moved to {to}, and {} was the last", history.watermark));
        }
        // One that was followed by another may be told of with that.
        for topic in &self.topics {
            let last = history.last_deletion(*topic, self.placed, history.watermark);
            if let Some(deletion) = last.filter(|at| *at <= to && *at > self.deletion_told(*topic)) {
                return Err(format!(
                    "topic {topic} was deleted at {deletion}: it must be told of that on the way to {to}"
                ));
            }
        }
        // What goes with a deletion is not owed, nor the next life of its only topic.
        let owed = |fact: &Fact| {
            self.topics.contains(&fact.topic)
                && history.deleted_after(fact.topic, if self.is_alone() { self.placed } else { fact.seq }).is_none()
        };
        let from = history.facts.partition_point(|fact| fact.seq <= self.pos);
        for fact in history.facts[from..].iter().take_while(|fact| fact.seq <= to) {
            if owed(fact) && fact.removed.is_none_or(|stamp| stamp > *self.told.end()) {
                let (pos, seq, removed) = (self.pos, fact.seq, fact.removed.is_some());
                return Err(format!("event {seq} is missing on the way from {pos} to {to}; removed: {removed}"));
            }
        }
        Ok(())
    }

    fn event(&mut self, block: &Block, history: &History) -> Result<(), String> {
        if let Some(notice) = &self.end_notice {
            return Err(format!("an event after {notice}: {block:?}"));
        }
        let seq = self.seq(&block.id, history)?;
        let at = history.facts.binary_search_by_key(&seq, |fact| fact.seq);
        let fact = at.map(|at| &history.facts[at]).map_err(|_| format!("event {seq} was never published"))?;
        if seq <= self.pos {
            return Err(format!("event {seq} came when it had been given everything up to {}", self.pos));
        }
        if !self.topics.contains(&fact.topic) {
            return Err(format!("event {seq} is of topic {}, it has {:?}", fact.topic, self.topics));
        }
        let life = history.last_deletion(fact.topic, self.placed, seq);
        if self.is_alone() && life.is_some() {
            return Err(format!("event {seq} is of a later life of topic {}", fact.topic));
        }
        if life.is_some_and(|life| life > self.deletion_told(fact.topic)) {
            return Err(format!("event {seq} is of a life of topic {} that it was not told of", fact.topic));
        }
        if let Some((topic, told)) = self.deletions.iter().find(|(_, told)| *told.start() > seq) {
            return Err(format!(
                "before event {seq} it was told that topic {topic} was deleted, which was at {told:?}"
            ));
        }
        let name = fact.name.as_deref();
        if block.event != name.unwrap_or("message") {
            return Err(format!("event {seq} has the type {:?}, not {name:?}", block.event));
        }
        let as_published = match self.encoding.format {
            Format::Plain => block.data == normalised(&fact.content),
            Format::Envelope | Format::Lines => {
                let object: Value = serde_json::from_str(&block.data).map_err(|error| error.to_string())?;
                let topic = history.names[fact.topic].as_str();
                object["id"] == block.id
                    && object["topic"] == topic
                    && object["event"].as_str() == name
                    && object["data"] == *fact.content
            }
        };
        if !as_published {
            return Err(format!("event {seq} was {:?}, and came as {:?}", fact.content, block.data));
        }
        self.advance(seq - 1, history)?;
        self.pos = seq;
        // A notice that came before this event is of a deletion before it.
        for (topic, told) in &mut self.deletions {
            let to = history.last_deletion(*topic, self.placed, seq).unwrap_or_default();
            *told = *told.start()..=to.min(*told.end());
        }
        if let (Some(life), Some(told)) = (life, self.deletions.get_mut(&fact.topic)) {
            *told = life..=life;
        }
        Ok(())
    }

    fn gap(&mut self, block: &Block, made_from: usize, history: &History) -> Result<(), String> {
        let notice = Notice::read(block)?;
        let after = self.seq(notice.text("requested")?, history)?;
        let resumed_after = self.seq(notice.text("resumed_after")?, history)?;
        if notice.text("reason")? != "evicted" || self.seq(&block.id, history)? != resumed_after {
            return Err(format!("a gap within a stream: {notice:?}"));
        }
        self.advance(after, history)?;
        let mine = history.facts.iter().filter(|fact| self.topics.contains(&fact.topic) && fact.seq > after);
        let lost = |fact: &Fact| fact.removed.is_some_and(|stamp| stamp > *self.told.start());
        if after != self.pos || !mine.clone().any(lost) {
            return Err(format!("nothing that it has not been told of was removed after {}: {notice:?}", self.pos));
        }
        // The deletion of a topic takes its events out of the reckoning, and may have come after the notice was made.
        let living = |topic| !self.is_alone() || history.deleted_after(topic, self.placed).is_none();
        if mine.clone().any(|fact| fact.seq <= resumed_after && fact.removed.is_none() && living(fact.topic)) {
            return Err(format!("it passes over an event that is held: {notice:?}"));
        }
        // It goes on before the next event that is held, or, when there is none, at the tail, past what was lost.
        let mut passed = mine.filter(|fact| fact.seq <= resumed_after);
        if !history.has(&self.topics, resumed_after + 1) && !passed.any(lost) {
            return Err(format!("it goes on where there is nothing: {notice:?}"));
        }
        self.told = made_from.max(*self.told.start())..=history.stamp;
        self.advance(resumed_after, history)
    }

    fn deleted(&mut self, block: &Block, history: &History) -> Result<(), String> {
        let notice = Notice::read(block)?;
        let name = notice.text("topic")?;
        let at = self.topics.iter().position(|topic| history.names[*topic].as_str() == name);
        let at = at.ok_or_else(|| format!("it was told of the deletion of {name}, which it does not have"))?;
        let topic = self.topics[at];
        let known = self.deletions.get(&topic).map_or(0, |told| *told.start()).max(self.placed).max(self.pos);
        let first = history.deleted_after(topic, known);
        let Some((first, last)) = first.zip(history.last_deletion(topic, known, history.watermark)) else {
            return Err(format!("{name} has not been deleted since it was told of that last"));
        };
        self.deletions.insert(topic, first..=last);
        if self.is_alone() {
            self.topics.clear();
        }
        Ok(())
    }

    /// It has been told of the deletions of `topic` up to here.
    fn deletion_told(&self, topic: usize) -> u64 {
        self.deletions.get(&topic).map_or(0, |told| *told.end())
    }

    /// Its stream is of one topic, and ends with it.
    fn is_alone(&self) -> bool {
        self.asked.len() == 1
    }

    /// Once nothing is left to be done: it must have everything, and know of every deletion.
    pub fn at_the_tail(&self, history: &History) -> Result<(), String> {
        let is_over = |topic: &usize| {
            let deletion = history.last_deletion(*topic, self.placed, history.watermark);
            deletion.is_some_and(|at| !history.facts.iter().any(|fact| fact.topic == *topic && fact.seq > at))
        };
        if self.asked.iter().all(is_over) {
            return Err("all of its topics were deleted, and its stream goes on".to_owned());
        }
        self.has_all(history.watermark, history)
    }
}

/// `content` as the standard's parser reads it: every line end is LF.
pub fn normalised(content: &str) -> String {
    content.replace("\r\n", "\n").replace('\r', "\n")
}
