use super::*;
use proptest::prelude::*;

fn line(comm: &str) -> String {
    format!(
        "12 ({comm}) S 7 11 10 34816 12 4194304 1 0 0 0 30 12 5 -1 20 0 3 0 4242 1 2 \
         18446744073709551615 4096 8192 140000 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 2 3 777 888 9 9 0\n"
    )
}

#[test]
fn stat_survives_hostile_names() {
    for comm in ["cat", "a) R (b", ")", "(", "", "x) Z 1 1 1", "new\nline", "tab\there (deleted)"] {
        let stat = parse_stat(line(comm).as_bytes()).unwrap();
        assert_eq!(stat.comm, comm);
        assert_eq!((stat.pid, stat.state, stat.ppid, stat.threads), (12, b'S', 7, 3));
        assert_eq!((stat.group, stat.session, stat.terminal), (11, 10, 34816));
        assert_eq!((stat.cpu_ticks, stat.children_cpu_ticks, stat.start_ticks), (42, 5, 4242));
        assert_eq!(stat.memory_marks, [4096, 140_000, 777]);
    }
    let bytes = [b"12 (\xff\xfe".as_slice(), &line("").as_bytes()[4..]].concat();
    assert_eq!(parse_stat(&bytes).unwrap().comm, "\u{fffd}\u{fffd}");
}

#[test]
fn stat_needs_all_it_promises() {
    for text in ["", "12", "12 (cat", "12 (cat)", "12 (cat) S", ") 12 (", "x (cat) S 1", "12 (cat) S 7 12 12 1"] {
        assert_eq!(parse_stat(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn the_dead_are_told_from_those_with_living_threads() {
    let mut stat = parse_stat(line("x").as_bytes()).unwrap();
    stat.state = b'Z';
    assert!(!stat.is_dead(), "three threads");
    stat.threads = 1;
    assert!(stat.is_dead());
    stat.state = b'S';
    assert!(!stat.is_dead());
}

#[test]
fn status_takes_what_is_there() {
    let text =
        "Name:\tTracerPid:\nTgid:\t5\nTracerPid:\t9\nUid:\t1\t2\t3\t4\nVmPin:\t 8 kB\nRssAnon:\t 100 kB\nSeccomp:\t2\n";
    let status = parse_status(text).unwrap();
    assert_eq!((status.tgid, status.tracer_pid, status.uid, status.seccomp), (5, 9, 2, 2));
    assert_eq!((status.pinned_bytes, status.locked_bytes, status.anonymous_bytes), (8192, 0, 102_400));
    assert_eq!(parse_status("Name:\tx\n"), None);
}

#[test]
fn syscalls() {
    assert_eq!(parse_syscall("running\n"), Some(Syscall::Running));
    assert_eq!(parse_syscall("-1 0x7ffd 0x7f01\n"), Some(Syscall::Outside));
    assert_eq!(
        parse_syscall("0 0x0 0x1 0x2 0x3 0x4 0xffffffffffffffff 0x7ffd 0x7f01\n"),
        Some(Syscall::Inside { number: 0, args: [0, 1, 2, 3, 4, u64::MAX], stack: 0x7ffd })
    );
    for text in ["", "read", "0 0x0", "0 0x0 1 2 3 4 5 6 7"] {
        assert_eq!(parse_syscall(text), None, "{text:?}");
    }
}

#[test]
fn epoll_sets() {
    let text = "pos:\t0\nflags:\t02\ntfd:        0 events:       19 data: 0  pos:0 ino:39d44 sdev:f\n\
                tfd:        4 events: c0000019 data: 4  pos:0 ino:39d46 sdev:f\ntfd: 4 events:d data: 1\n";
    assert_eq!(
        parse_epoll(text).unwrap(),
        [(0, 0x19, 0), (4, 0xc000_0019, 0), (4, 0xd, 1)].map(|(fd, events, nth)| Interest { fd, events, nth })
    );
    assert_eq!(parse_epoll("pos:\t0\n").unwrap(), []);
    assert_eq!(parse_epoll("tfd: x events: 1\n"), None);
}

#[test]
fn shared_mappings() {
    let maps = "1000-2000 rw-p 00000000 00:00 0\n2000-3000 rw-s 00000000 00:01 7 /dev/shm/x\n";
    assert_eq!(is_shared_mapping(maps, 0x1fff), Some(false));
    assert_eq!(is_shared_mapping(maps, 0x2000), Some(true));
    assert_eq!(is_shared_mapping(maps, 0x3000), None);
}

#[test]
fn kinds_of_descriptors() {
    for (link, kind) in [
        ("pipe:[5]", FdKind::Pipe),
        ("socket:[77]", FdKind::Socket(77)),
        ("pidfd:[1]", FdKind::PidFd),
        ("anon_inode:[eventfd]", FdKind::EventFd),
        ("anon_inode:inotify", FdKind::Inotify),
        ("anon_inode:[eventpoll]", FdKind::Epoll),
        ("anon_inode:[io_uring]", FdKind::Other("io_uring".into())),
        ("/dev/pts/3", FdKind::Terminal),
        ("/dev/tty", FdKind::Terminal),
        ("/dev/null", FdKind::File),
        ("/dev/fuse", FdKind::Other("/dev/fuse".into())),
        ("/proc/7/mountinfo", FdKind::Other("/proc/7/mountinfo".into())),
        ("/home/pipe:[5]", FdKind::File),
        ("/tmp/x (deleted)", FdKind::File),
        ("net:[4026531840]", FdKind::Other("net:[4026531840]".into())),
    ] {
        assert_eq!(FdKind::of_link(link), kind, "{link}");
    }
}

#[test]
fn reads_this_process() {
    let me = std::process::id() as i32;
    let stat = stat(me).unwrap();
    assert_eq!(stat.pid, me);
    assert!(stat.start_ticks > 0 && !stat.is_dead());
    assert_eq!(status(me).unwrap().tgid, me);
    let threads = threads(me).unwrap();
    assert!(threads.contains(&me));
    assert!(threads.iter().all(|&tid| thread_stat(me, tid).is_ok_and(|stat| stat.pid == tid)));
    assert!(maps(me).unwrap().contains("[stack]"));
    let (pipe, _other) = std::io::pipe().unwrap();
    assert_eq!(fd_kind(me, std::os::fd::AsRawFd::as_raw_fd(&pipe)), Ok(FdKind::Pipe));
}

#[test]
fn what_is_gone_is_not_refused() {
    let nobody = i32::MAX;
    assert_eq!(stat(nobody), Err(Unseen::Gone));
    assert_eq!(threads(nobody), Err(Unseen::Gone));
    assert_eq!(syscall(nobody, nobody), Err(Unseen::Gone));
    assert_eq!(fds(nobody), Err(Unseen::Gone));
    assert_eq!(epoll(std::process::id() as i32, i32::MAX), Err(Unseen::Gone));
    assert!(matches!(numbers("/proc", 0), Err(Unseen::Refused(_))));
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        parse_stat(&bytes);
        for text in [text.as_str(), &String::from_utf8_lossy(&bytes)] {
            parse_status(text);
            parse_syscall(text);
            parse_epoll(&format!("tfd:{text}"));
            is_shared_mapping(text, 7);
            FdKind::of_link(text);
        }
    }
}
