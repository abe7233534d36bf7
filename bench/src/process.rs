//! What a server costs: CPU, memory and bytes written, of it and its children, as Linux counts them.

use crate::Result;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that serves until it is dropped.
pub(crate) struct Process {
    pid: u32,
    /// None if it has detached itself.
    child: Option<Child>,
}

/// Counted since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and kernel time of all threads, ended ones too.
    pub(crate) cpu: Duration,
    /// Bytes it caused to be sent to storage, from all of its files.
    pub(crate) written: u64,
}

impl Process {
    /// Starts `command`, whose words go to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Process> {
        let output = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Process { pid: child.id(), child: Some(child) })
    }

    /// The program that wrote its number into `file` and went into the background.
    pub(crate) fn detached(file: &Path) -> Result<Process> {
        wait_for("a process number", || fs::read_to_string(file).is_ok_and(|t| t.ends_with('\n')))?;
        Ok(Process { pid: fs::read_to_string(file)?.trim().parse()?, child: None })
    }

    /// Ends it with SIGKILL, as a crash does.
    pub(crate) fn crash(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !Path::new(&format!("/proc/{}", self.pid)).exists(),
        }
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        usage_of(self.pid)
    }

    /// Makes the peak what is resident now.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        for pid in family(self.pid)? {
            // Without the right to it the peak is that since the start.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        Ok(())
    }

    /// Peak of resident bytes, and anonymous ones now.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let mut sum = (0, 0);
        for pid in family(self.pid)? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            sum.0 += field(&status, "VmHWM:").ok_or("no VmHWM")? * 1024;
            sum.1 += field(&status, "RssAnon:").ok_or("no RssAnon")? * 1024;
        }
        Ok(sum)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !self.ended() {
            self.signal(rustix::process::Signal::KILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// What the process and its living children have used.
pub(crate) fn usage_of(pid: u32) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in family(pid)? {
        sum.cpu += cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        // Not everybody may ask this; then it stays zero.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        sum.written += field(&io, "write_bytes:").unwrap_or(0);
    }
    Ok(sum)
}

/// It and its living children.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut family = vec![pid];
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(family)
}

/// Waits for up to 60 s.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("waited 60 s for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// User and kernel time from a line of /proc/PID/stat. The kernel scales both so that their sum is what
/// the scheduler measured, in ticks.
fn cpu(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<std::result::Result<u64, _>>()?;
    let second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Process, cpu, family, field};
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0 100 200 300\n";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(3));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmHWM:\t    1234 kB\nRssAnon:\t 7 kB\n";
        assert_eq!(field(status, "VmHWM:"), Some(1234));
        assert_eq!(field(status, "Rss:"), None);
    }

    #[test]
    fn work_of_a_child_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'i=0; while [ $i -lt 100000000 ]; do i=$((i+1)); done'; true"]);
        let process = Process::start(command, &folder.path().join("log")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.usage().unwrap().cpu < Duration::from_millis(50) {
            assert!(Instant::now() < deadline, "no CPU time was seen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let family = family(process.pid).unwrap();
        assert_eq!(family.len(), 2, "the shell and its child");
        assert!(process.memory().unwrap().0 > 0);
        drop(process);
        let child = rustix::process::Pid::from_raw(family[1] as i32).unwrap();
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    }
}
