//! The objects of a JSON array, one by one, however the network cuts it.

use memchr::memchr2;

/// Takes bytes in any cuts and gives whole objects. What stands between them is not looked at: whether
/// an object is JSON is for whoever reads it.
#[derive(Default)]
pub(super) struct Objects {
    /// The object that is not at its end yet.
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    after_backslash: bool,
    /// The array is at its end: clients stop reading there.
    closed: bool,
}

impl Objects {
    /// Reads from `input` up to the end of the next object. `None` when the input is used up first.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        let mut at = 0;
        // Where the object begins, or goes on.
        let mut start = 0;
        while at < input.len() {
            if self.in_string {
                at += self.string(&input[at..]);
                continue;
            }
            let byte = input[at];
            at += 1;
            match byte {
                b'{' | b'[' if self.depth > 0 => self.depth += 1,
                b'{' => (self.depth, start) = (1, at - 1),
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => {
                    self.depth = 0;
                    self.text.extend_from_slice(&input[start..at]);
                    *input = &input[at..];
                    return Some(std::mem::take(&mut self.text));
                }
                b']' => self.closed = true,
                b'"' if self.depth > 0 => self.in_string = true,
                _ => {}
            }
        }
        if self.depth > 0 {
            self.text.extend_from_slice(&input[start..]);
        }
        *input = &[];
        None
    }

    /// How much of these bytes belongs to the string.
    fn string(&mut self, rest: &[u8]) -> usize {
        if std::mem::take(&mut self.after_backslash) {
            return 1;
        }
        match memchr2(b'"', b'\\', rest) {
            Some(at) => {
                (self.in_string, self.after_backslash) = (rest[at] == b'\\', rest[at] == b'\\');
                at + 1
            }
            None => rest.len(),
        }
    }

    /// Whether an object has begun, or the array has ended: what clients must not see before their turn
    /// is durable.
    pub(super) fn holds(&self) -> bool {
        self.depth > 0 || self.closed
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Value>, bool) {
        let mut objects = Objects::default();
        let mut found = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(object) = objects.next(&mut input) {
                assert!(!objects.holds() && objects.len() == 0);
                found.push(serde_json::from_slice(&object).unwrap());
            }
            assert!(input.is_empty());
        }
        (found, objects.holds())
    }

    #[test]
    fn objects_are_found_in_an_array_and_alone() {
        let (found, ended) = read(&[b"[{\n \"a\": [{}, \"]}\\\"\"]\n}\n,\r\n{}\n", b"]\n"]);
        assert_eq!((found, ended), (vec![json!({"a": [{}, "]}\""]}), json!({})], true));
        assert_eq!(read(&[b"{\"a\":1}"]), (vec![json!({"a": 1})], false));
        assert_eq!(read(&[b"[1, \"x\", null, "]), (vec![], false));
        assert_eq!(read(&[b"[{\"a\":\"\\"]), (vec![], true));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), any::<String>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a\"\\\\{}]{0,3}", inner, 0..3).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn each_object_comes_whole_wherever_the_bytes_are_cut(
            objects in prop::collection::vec(prop::collection::btree_map("[a-c]", json(), 0..3), 0..5),
            pretty in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let objects: Vec<Value> = objects.into_iter().map(|map| map.into_iter().collect()).collect();
            let array = json!(objects);
            let text = if pretty { format!("{array:#}\n") } else { array.to_string() }.into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&chunks), (objects, true));
        }
    }
}
