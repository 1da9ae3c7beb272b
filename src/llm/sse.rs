//! Where one event of a stream ends, however the network cuts it.

use std::fmt;

use memchr::memchr2;

use super::objects::Objects;

/// How a streamed reply is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// Server-sent events: lines of fields, an event ends at a blank line.
    Sse,
    /// One JSON object per line.
    Lines,
    /// One JSON array, each of its objects an event.
    Array,
}

/// One event: for [`Framing::Lines`] a line, for [`Framing::Array`] an object, without a name.
#[derive(Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The field `event`; empty where there was none.
    pub name: String,
    /// All `data` lines, joined by line feeds.
    pub data: String,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("name", &self.name.len()).field("data", &self.data.len()).finish()
    }
}

/// Takes bytes in any cuts and gives whole events.
///
/// Knows nothing of what the events say. UTF-8 is looked at only when an event is whole, so a
/// character may be cut anywhere.
pub(super) struct Splitter {
    framing: Framing,
    limit: usize,
    /// The line that is not at its end yet.
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    /// A CR was the last byte: an LF that follows belongs to it.
    after_cr: bool,
    at_start: bool,
    objects: Objects,
}

/// An event that would be larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Splitter {
    pub(super) fn new(framing: Framing, limit: usize) -> Self {
        Self {
            framing,
            limit,
            line: Vec::new(),
            name: String::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            at_start: true,
            objects: Objects::default(),
        }
    }

    /// Reads from `input` up to the end of the next event. `None` when the input is used up first.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, TooLarge> {
        if self.framing == Framing::Array {
            let object = self.objects.next(input);
            let size = object.as_ref().map_or(self.objects.len(), Vec::len);
            let event = object.map(|object| Event { name: String::new(), data: text_of(&object) });
            return if size > self.limit { Err(TooLarge) } else { Ok(event) };
        }
        while !input.is_empty() {
            if std::mem::take(&mut self.after_cr) && input[0] == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', input) else {
                self.line.extend_from_slice(input);
                *input = &[];
                self.check()?;
                break;
            };
            self.line.extend_from_slice(&input[..end]);
            self.after_cr = input[end] == b'\r';
            *input = &input[end + 1..];
            self.check()?;
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.take(&line) {
                // A line feed that completes this event's line end goes with it.
                if self.after_cr && input.first() == Some(&b'\n') {
                    self.after_cr = false;
                    *input = &input[1..];
                }
                return Ok(Some(event));
            }
            self.line = line;
            self.line.clear();
        }
        Ok(None)
    }

    /// The last event of a stream that ended without the line end it owed. For lines it counts; an
    /// SSE event that no blank line ended is not one.
    pub(super) fn finish(&mut self) -> Option<Event> {
        match self.framing {
            Framing::Lines => {
                let line = std::mem::take(&mut self.line);
                self.take(&line)
            }
            Framing::Sse | Framing::Array => None,
        }
    }

    /// Whether an event has begun that is not at its end: more than comments and blank lines.
    pub(super) fn in_event(&self) -> bool {
        let line_counts = match self.framing {
            Framing::Sse => self.line.first().is_some_and(|byte| *byte != b':'),
            Framing::Lines => !self.line.is_empty(),
            Framing::Array => self.objects.holds(),
        };
        line_counts || self.has_data || !self.name.is_empty()
    }

    fn check(&self) -> Result<(), TooLarge> {
        if self.line.len() + self.data.len() > self.limit { Err(TooLarge) } else { Ok(()) }
    }

    fn take(&mut self, line: &[u8]) -> Option<Event> {
        let line = match std::mem::take(&mut self.at_start) {
            true => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
            false => line,
        };
        match self.framing {
            Framing::Lines => {
                let text = line.trim_ascii();
                (!text.is_empty()).then(|| Event { name: String::new(), data: text_of(text) })
            }
            Framing::Sse if line.is_empty() => self.dispatch(),
            Framing::Sse | Framing::Array => {
                self.field(line);
                None
            }
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event { name, data: text_of(&data) })
    }

    fn field(&mut self, line: &[u8]) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => return,
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => self.name = text_of(value),
            _ => {}
        }
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(framing: Framing, chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut splitter = Splitter::new(framing, 1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(event) = splitter.next(&mut input).unwrap() {
                events.push((event.name, event.data));
            }
            assert!(input.is_empty());
        }
        events.extend(splitter.finish().map(|event| (event.name, event.data)));
        events
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let text =
            "\u{feff}: hello\r\ndata: a\r\ndata:b\r\n\r\nevent: x\rdata: é\r\rid: 1\n\nretry: 5\n\ndata\n\ndata: cut";
        let events = read(Framing::Sse, &[text.as_bytes()]);
        let expected = [("", "a\nb"), ("x", "é"), ("", "")];
        assert_eq!(events, expected.map(|(n, d)| (n.to_owned(), d.to_owned())));
    }

    #[test]
    fn a_last_line_without_its_end_counts() {
        let events = read(Framing::Lines, &[b"{\"a\":1}\r\n\n  {\"b\"", b":2}"]);
        assert_eq!(events.iter().map(|e| &*e.1).collect::<Vec<_>>(), [r#"{"a":1}"#, r#"{"b":2}"#]);
    }

    #[test]
    fn an_event_has_a_bound() {
        let mut splitter = Splitter::new(Framing::Sse, 8);
        assert_eq!(splitter.next(&mut &b"data: 123456789"[..]), Err(TooLarge));
    }

    #[test]
    fn a_comment_is_no_event_in_the_making() {
        let mut splitter = Splitter::new(Framing::Sse, 100);
        for (input, inside) in [(": ping", false), ("\n", false), ("d", true), ("ata: x\n", true), ("\n", false)] {
            let _ = splitter.next(&mut input.as_bytes()).unwrap();
            assert_eq!(splitter.in_event(), inside, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            lines in proptest::collection::vec("(data: [aé🙂]{0,3}|data|event: x|: c|)", 0..12),
            end in "(\n|\r|\r\n)",
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(Framing::Sse, &chunks), read(Framing::Sse, &[bytes]));
        }
    }
}
