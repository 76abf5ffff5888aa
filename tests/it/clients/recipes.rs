//! The README's line for a service that consumes, as it is printed.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{
    blocking::{Broker, Directory, wait_for},
    tools::{left_out, on_path},
};

/// The line that the README pipes into `jq`.
fn printed() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let page = std::fs::read_to_string(page).expect("README.md");
    let line = page.split('`').skip(1).step_by(2).find(|code| code.starts_with("curl ") && code.contains("| jq "));
    line.expect("README.md pipes a stream into jq").to_owned()
}

/// What `line` prints of an event whose content is `content`.
fn printed_of(line: &str, content: &str) -> String {
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let url = format!("http://{}/subscribe", broker.address);
    assert!(line.contains("…/subscribe"), "the address is left to the reader: {line}");
    let mut shell = Command::new("bash");
    let mut shell =
        shell.args(["-c", &line.replace("…/subscribe", &url)]).stdout(Stdio::piped()).spawn().expect("bash");
    let mut client = broker.client();
    wait_for("the subscriber", || {
        let topic = client.request("GET", "/topics/orders", "", "").expect("an answer");
        topic.body["subscribers"] == 1
    });
    client.must_publish("orders", content);
    let mut out = BufReader::new(shell.stdout.take().expect("its output"));
    let mut first = String::new();
    out.read_line(&mut first).expect("UTF-8");
    // Its curl ends with the stream, and so the shell does.
    broker.kill();
    shell.wait().expect("it ends");
    first
}

#[test]
fn the_line_for_services_prints_content_as_it_was_published() {
    // And at once, although its output is no terminal: nothing else is published that could push it out.
    for program in ["bash", "curl", "jq"] {
        if on_path(program).is_none() {
            return left_out(&format!("no {program} on PATH"));
        }
    }
    let line = printed();
    assert_eq!(printed_of(&line, r#"say "grüße""#), "say \"grüße\"\n");
    // The control: without `-r` it is a literal of JSON.
    let literal = line.replace(" -r ", " ");
    assert_eq!(printed_of(&literal, r#"say "grüße""#), "\"say \\\"grüße\\\"\"\n");
}
