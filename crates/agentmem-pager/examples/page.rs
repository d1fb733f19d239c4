//! Pages out and wakes processes by hand: `page PID...`, then `o` and `w` on stdin, `s` for SSD.

use agentmem_pager::freeze::Freezer;
use agentmem_pager::gate::{Bell, Gate};
use agentmem_pager::pager::Pager;
use agentmem_pager::tree::Member;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() {
    let member = |word: String| Member::of(word.parse().expect("a process id")).expect("a running process");
    let members: Vec<Member> = std::env::args().skip(1).map(member).collect();
    let folder = std::env::temp_dir().join(format!("agentmem-page-{}", std::process::id()));
    let mut pager = Pager::new(
        Freezer::Stop { stopped_before: Vec::new() },
        &folder,
        Arc::new(Gate::new(Bell::new().expect("an eventfd"))),
    )
    .expect("a pager");
    let go = AtomicBool::new(false);
    for line in std::io::stdin().lines() {
        match line.expect("text").as_str() {
            "o" => match pager.capture(&members, &go).and_then(|live| pager.page_out(&live, &go, &mut |_| Ok(()))) {
                Ok(report) => println!("{report:?} {:?}", pager.held()),
                Err(why) => println!("not out: {why}"),
            },
            "s" => println!("{:?} {:?}", pager.demote(&go), pager.held()),
            "w" => println!("{:?}", pager.wake()),
            other => println!("{other}: o, s or w"),
        }
    }
    println!("{:?}", pager.wake());
    pager.release();
}
