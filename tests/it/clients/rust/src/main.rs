//! reqwest-eventsource as its own documentation has it: main URL. One line of JSON for each message.

use futures_util::StreamExt as _;
use reqwest_eventsource::{Event, EventSource};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).expect("a URL");
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        match event {
            Ok(Event::Open) => {}
            Ok(Event::Message(message)) => {
                let line = serde_json::json!({"event": message.event, "id": message.id, "data": message.data});
                println!("{line}");
            }
            Err(error) => eprintln!("lost: {error}"),
        }
    }
}
