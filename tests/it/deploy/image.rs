//! What the Dockerfile says, as far as it can be run without building the image.

use tokio::process::Command;

use super::{path, read, secrets};
use crate::harness::{
    Process,
    process::program,
    tools::{left_out, on_path},
};

/// The instruction of the Dockerfile that begins with `name`, with its continued lines.
fn instruction(name: &str) -> String {
    let text = read("deploy/Dockerfile");
    let begin = text.find(&format!("\n{name} ")).unwrap_or_else(|| panic!("there is {name}")) + 1;
    let lines = text[begin..].lines();
    let mut instruction = String::new();
    for line in lines {
        instruction.push_str(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            break;
        }
    }
    instruction
}

#[tokio::test]
async fn the_health_check_of_the_image_asks_the_server() {
    // Goal: the command succeeds while the server answers, and fails when nobody does.
    if on_path("bash").is_none() {
        return left_out("no bash");
    }
    let instruction = instruction("HEALTHCHECK");
    let (_, command) = instruction.split_once(" CMD ").expect("a command");
    let command: Vec<String> = serde_json::from_str(command).expect("its form is a JSON array");
    let mut server = Process::start(&[]).await;
    let port = server.address.port().to_string();
    let is_healthy = async || {
        let mut check = Command::new(&command[0]);
        check.args(&command[1..]).env("TIDINGS__SERVER__PORT", &port);
        check.output().await.expect("bash runs").status.success()
    };
    assert!(is_healthy().await, "{command:?}");
    server.signal("TERM").await;
    server.exit().await;
    assert!(!is_healthy().await);
}

#[tokio::test]
async fn the_image_starts_only_with_keys() {
    // Goal: in the environment of the image the server refuses to start, and says why. With the shipped configuration and
    // the documented secret it would start. A secret that is missing is noticed.
    let environment = instruction("ENV");
    let variables: Vec<(&str, &str)> =
        environment.trim_start_matches("ENV ").split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    assert!(variables.contains(&("TIDINGS__SERVER__HOST", "0.0.0.0")), "{variables:?}");
    let config = path("deploy/cluster/config.toml");
    let (name, value) = secrets();
    for (with_config, with_secret, code, said) in [
        (false, false, 78, "auth.anonymous"),
        (true, true, 0, "the configuration is valid"),
        (false, true, 0, "the configuration is valid"),
    ] {
        let mut command = program();
        command.arg("--check").envs(variables.iter().copied());
        if with_config {
            command.arg("--config").arg(&config);
        }
        if with_secret {
            command.env(&name, &value);
        }
        let output = command.output().await.expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{text}");
    }
}
