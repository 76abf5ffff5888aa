//! Peers, disks and clocks at their worst. Each case has a control beside it, which shows that its check can fail.

mod bodies;
mod budget;
mod busy;
mod clock;
mod connections;
mod crowd;
mod damage;
mod deletion;
mod descriptors;
mod dripped;
mod endings;
mod keys;
mod publishers;
mod readers;
mod removed;
mod restored;
mod smuggling;
mod threats;
mod topics;
