//! A Gemini call whose arguments come in parts, each for a place that a JSON path names.

use serde_json::{Map, Value};

use super::element::{list, text};

/// A call in the making.
pub(super) struct Call {
    /// What stands beside the call: its signature.
    part: Map<String, Value>,
    call: Map<String, Value>,
    args: Value,
    continues: bool,
}

impl Call {
    /// Begins with this part; `None` for a part that is no call, or a whole one.
    pub(super) fn begin(part: &Map<String, Value>) -> Option<Self> {
        let call = call_of(part)?;
        if !continues(call) && !call.contains_key("partialArgs") {
            return None;
        }
        let mut begun = Self { part: Map::new(), call: Map::new(), args: Map::new().into(), continues: true };
        begun.add(part);
        Some(begun)
    }

    /// Whether the part goes on with this call.
    pub(super) fn takes(&self, part: &Map<String, Value>) -> bool {
        let same = |call, field| ["", text(&self.call, field)].contains(&text(call, field));
        self.continues && call_of(part).is_some_and(|call| same(call, "name") && same(call, "id"))
    }

    pub(super) fn add(&mut self, part: &Map<String, Value>) {
        let Some(call) = call_of(part) else { return };
        let beside = part.iter().filter(|(name, _)| *name != "functionCall");
        self.part.extend(beside.map(|(name, value)| (name.clone(), value.clone())));
        for (name, value) in call {
            match (&**name, value) {
                ("partialArgs" | "willContinue", _) | (_, Value::Null) => {}
                ("args", Value::Object(given)) => {
                    if let Value::Object(args) = &mut self.args {
                        args.extend(given.clone());
                    }
                }
                _ => drop(self.call.insert(name.clone(), value.clone())),
            }
        }
        for partial in list(call, "partialArgs") {
            let given = ["stringValue", "numberValue", "boolValue"].iter().find_map(|kind| partial.get(kind));
            let path = partial.get("jsonPath").and_then(Value::as_str).unwrap_or_default();
            match (place(&mut self.args, path), given) {
                (Some(Value::String(so_far)), Some(Value::String(more))) => so_far.push_str(more),
                (Some(place), given) => *place = given.cloned().unwrap_or_default(),
                (None, _) => {}
            }
        }
        self.continues = continues(call);
    }

    /// The part, as if it had come whole; marked where it did not come to its end.
    pub(super) fn to_json(&self) -> String {
        let mut call = self.call.clone();
        call.insert("args".into(), self.args.clone());
        if self.continues {
            call.insert("willContinue".into(), true.into());
        }
        let mut part = self.part.clone();
        part.insert("functionCall".into(), call.into());
        Value::from(part).to_string()
    }
}

fn call_of(part: &Map<String, Value>) -> Option<&Map<String, Value>> {
    part.get("functionCall")?.as_object()
}

pub(super) fn continues(call: &Map<String, Value>) -> bool {
    call.get("willContinue").and_then(Value::as_bool) == Some(true)
}

/// The place that a path like `$.foo.bar[0]['a b']` names, made if it is not there. `None` for any
/// other kind of path, and for one past the end of a list.
fn place<'a>(root: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut rest = path.strip_prefix('$')?;
    let mut place = root;
    while !rest.is_empty() {
        let (name, index);
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, index, rest) = (Some(&after[..end]), None, &after[end..]);
        } else {
            let after = rest.strip_prefix('[')?;
            match after.chars().next()? {
                quote @ ('\'' | '"') => {
                    let (inner, after) = after[1..].split_once(&format!("{quote}]"))?;
                    (name, index, rest) = (Some(inner), None, after);
                }
                _ => {
                    let (number, after) = after.split_once(']')?;
                    (name, index, rest) = (None, Some(number.parse::<usize>().ok()?), after);
                }
            }
        }
        place = match (name, index) {
            (Some(name), _) => {
                if place.is_null() {
                    *place = Map::new().into();
                }
                place.as_object_mut()?.entry(name).or_insert(Value::Null)
            }
            (None, index) => {
                if place.is_null() {
                    *place = Value::Array(Vec::new());
                }
                let (index, values) = (index?, place.as_array_mut()?);
                if index == values.len() {
                    values.push(Value::Null);
                }
                values.get_mut(index)?
            }
        };
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(root: &mut Value, path: &str, value: impl Into<Value>) -> bool {
        place(root, path).map(|place| *place = value.into()).is_some()
    }

    #[test]
    fn paths_name_places_and_make_them() {
        let mut root = json!({});
        for (path, value) in [("$.a", 1), ("$.b.c[0].d", 2), ("$.b.c[1]", 3), ("$['x y'][\"z\"]", 4), ("$.a", 5)] {
            assert!(put(&mut root, path, value), "{path}");
        }
        assert_eq!(root, json!({"a": 5, "b": {"c": [{"d": 2}, 3]}, "x y": {"z": 4}}));
        for path in ["", "a", "$.a.b", "$.b.c[7]", "$[0]", "$[x]", "$..a[", "$['a", "$[", "$é"] {
            assert!(!put(&mut root.clone(), path, 0), "{path}");
        }
    }
}
