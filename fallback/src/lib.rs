//! A proactor over readiness: submit operations, reap completions.
