//! The program: everything it does is in the library's [`pgsluice::cli`].

fn main() -> std::process::ExitCode {
    pgsluice::cli::main()
}
