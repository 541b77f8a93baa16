//! The `walcast` command.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Gives memory back after a burst, which that of the C library does not (ARCHITECTURE.md, Decisions).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    walcast::cli::run()
}
