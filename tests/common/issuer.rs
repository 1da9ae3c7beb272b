//! Keys and tokens made by PyJWT: a library that shares no code with the one under test.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What `identity/tokens.py` made with `python3`, or the interpreter that `PYTHON` names; `None`,
/// loudly, where Python or PyJWT is missing, which fails under CI.
pub fn pyjwt(wanted: &Value) -> Option<Value> {
    let missing = |why: &str| {
        assert!(std::env::var_os("CI").is_none(), "PyJWT is needed under CI: {why}");
        // Past the test harness, which keeps back what passing tests print.
        let mut loud = std::io::stderr();
        let _ = writeln!(loud, "IGNORED: tokens of PyJWT were NOT tested: {why}; pip install 'pyjwt[crypto]'");
        None
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/identity/tokens.py");
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let python = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else { return missing("there is no python3") };
    python.stdin.take().expect("it is piped").write_all(wanted.to_string().as_bytes()).expect("the script reads");
    let output = python.wait_with_output().expect("the script ends");
    if output.status.code() == Some(42) {
        return missing("the module is not installed");
    }
    assert!(output.status.success(), "tokens.py failed");
    Some(serde_json::from_slice(&output.stdout).expect("the script writes JSON"))
}

pub fn text(made: &Value, pointer: &str) -> String {
    made.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}")).to_owned()
}
