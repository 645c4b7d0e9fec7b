//! The filter of system calls as a program of the kernel's: a search by halves among ranges of numbers.
//!
//! At each installation the kernel translates the program for the processor, and tries it with every number there is, to
//! know which calls need not be looked at later. A chain of comparisons, as the crate `seccompiler` makes it, takes two
//! thirds of a millisecond for that at every launch; this takes a tenth of it.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
};
use seccompiler::{BpfProgram, sock_filter};

/// `AUDIT_ARCH_*` of linux/audit.h: whose numbers of system calls the list speaks of; `None`: of no machine known here.
const MACHINE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else {
    None
};

// Where the fields of `struct seccomp_data` are, in bytes.
const NUMBER_AT: u32 = 0;
const MACHINE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT_LEN: u32 = 8;

/// What becomes of a call that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is made.
    Made,
    /// It fails with this error number.
    Fails(u16),
    /// It is made if all tests of one of these rules are passed; else it is as one that is not listed.
    IfAny(Vec<Vec<Test>>),
}

/// A test of the low half of an argument, which is all that the kernel reads of those that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    /// Which one, from 0 on.
    pub(super) argument: u8,
    pub(super) relation: Relation,
    pub(super) value: u32,
}

/// How an argument must be to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Is,
    IsNot,
    /// These bits of it must be those of the value.
    Masked(u32),
}

/// The program for these calls, by number; `otherwise` is the kernel's word (`SECCOMP_RET_*`) for any other.
///
/// # Errors
/// A sentence, on a machine that is not known, or when a rule is too long.
pub(super) fn compile(
    calls: &BTreeMap<libc::c_long, Verdict>,
    otherwise: u32,
) -> Result<BpfProgram, String> {
    let machine = MACHINE.ok_or("no filter of system calls for this machine")?;
    let mut program = vec![
        load(MACHINE_AT),
        jump(BPF_JEQ, machine, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
    ];
    program.extend(search(&ranges(calls), otherwise)?);
    Ok(program)
}

/// From this number on, up to the next range; `None`: not listed.
type Range<'a> = (u32, Option<&'a Verdict>);

/// All numbers, in as few ranges as there can be.
fn ranges(calls: &BTreeMap<libc::c_long, Verdict>) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = vec![(0, None)];
    for (number, verdict) in calls {
        let Ok(number) = u32::try_from(*number) else {
            continue;
        };
        // The end of the one before, if that was its neighbour.
        ranges.pop_if(|(from, _)| *from == number);
        if ranges.last().and_then(|(_, last)| *last) != Some(verdict) {
            ranges.push((number, Some(verdict)));
        }
        ranges.push((number + 1, None));
    }
    ranges
}

fn search(ranges: &[Range<'_>], otherwise: u32) -> Result<BpfProgram, String> {
    let (low, high) = match ranges {
        [] => return Ok(Vec::new()),
        [(_, verdict)] => return leaf(*verdict, otherwise),
        several => several.split_at(several.len() / 2),
    };
    let Some((from, _)) = high.first() else {
        return search(low, otherwise);
    };
    let low = search(low, otherwise)?;
    let mut program = match u8::try_from(low.len()) {
        Ok(over) => vec![jump(BPF_JGE, *from, over, 0)],
        // Too far for one step.
        Err(_) => vec![
            jump(BPF_JGE, *from, 0, 1),
            statement(BPF_JMP | BPF_JA, low.len() as u32),
        ],
    };
    program.extend(low);
    program.extend(search(high, otherwise)?);
    Ok(program)
}

/// Always ends with an answer.
fn leaf(verdict: Option<&Verdict>, otherwise: u32) -> Result<BpfProgram, String> {
    let rules = match verdict {
        None => return Ok(vec![answer(otherwise)]),
        Some(Verdict::Made) => return Ok(vec![answer(libc::SECCOMP_RET_ALLOW)]),
        Some(Verdict::Fails(errno)) => {
            return Ok(vec![answer(libc::SECCOMP_RET_ERRNO | u32::from(*errno))]);
        }
        Some(Verdict::IfAny(rules)) => rules,
    };
    let mut program = Vec::new();
    for tests in rules {
        // From behind, since a test that is not passed leads past all that follows.
        let mut rule = vec![answer(libc::SECCOMP_RET_ALLOW)];
        for test in tests.iter().rev() {
            let past = u8::try_from(rule.len());
            let past = past.map_err(|_| "a rule of the filter of system calls is too long")?;
            let mut one = vec![load(ARGUMENTS_AT + u32::from(test.argument) * ARGUMENT_LEN)];
            if let Relation::Masked(mask) = test.relation {
                one.push(statement(BPF_ALU | BPF_AND | BPF_K, mask));
            }
            one.push(match test.relation {
                Relation::Is | Relation::Masked(_) => jump(BPF_JEQ, test.value, 0, past),
                Relation::IsNot => jump(BPF_JEQ, test.value, past, 0),
            });
            one.extend(rule);
            rule = one;
        }
        program.extend(rule);
    }
    program.push(answer(otherwise));
    Ok(program)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(at: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, at)
}

fn answer(word: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, word)
}

fn jump(comparison: u32, k: u32, if_so: u8, if_not: u8) -> sock_filter {
    sock_filter {
        jt: if_so,
        jf: if_not,
        ..statement(BPF_JMP | comparison | BPF_K, k)
    }
}

/// What the kernel would answer, as it reads the program.
#[cfg(test)]
pub(super) fn outcome(program: &[sock_filter], machine: u32, number: u32, args: [u32; 6]) -> u32 {
    let mut register = 0;
    let mut at = 0;
    loop {
        let one = &program[at];
        at += 1;
        let code = u32::from(one.code);
        let step = |is_so| usize::from(if is_so { one.jt } else { one.jf });
        if code == BPF_LD | BPF_W | BPF_ABS {
            register = match one.k {
                NUMBER_AT => number,
                MACHINE_AT => machine,
                at => args[((at - ARGUMENTS_AT) / ARGUMENT_LEN) as usize],
            };
        } else if code == BPF_ALU | BPF_AND | BPF_K {
            register &= one.k;
        } else if code == BPF_JMP | BPF_JA {
            at += one.k as usize;
        } else if code == BPF_JMP | BPF_JEQ | BPF_K {
            at += step(register == one.k);
        } else if code == BPF_JMP | BPF_JGE | BPF_K {
            at += step(register >= one.k);
        } else {
            assert_eq!(code, BPF_RET | BPF_K, "an unknown instruction");
            return one.k;
        }
    }
}

/// Of this machine.
#[cfg(test)]
pub(super) fn outcome_here(program: &[sock_filter], number: u32, args: [u32; 6]) -> u32 {
    outcome(program, MACHINE.expect("a known machine"), number, args)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | 1;

    fn verdict() -> impl Strategy<Value = Verdict> {
        let relation = prop_oneof![
            Just(Relation::Is),
            Just(Relation::IsNot),
            (0..4_u32).prop_map(Relation::Masked),
        ];
        let test = (0..6_u8, relation, 0..3_u32).prop_map(|(argument, relation, value)| Test {
            argument,
            relation,
            value,
        });
        let rule = prop::collection::vec(test, 0..3);
        prop_oneof![
            3 => Just(Verdict::Made),
            1 => (1..200_u16).prop_map(Verdict::Fails),
            1 => prop::collection::vec(rule, 0..3).prop_map(Verdict::IfAny),
        ]
    }

    fn expected(verdict: Option<&Verdict>, args: [u32; 6]) -> u32 {
        let passed = |test: &Test| {
            let argument = args[usize::from(test.argument)];
            match test.relation {
                Relation::Is => argument == test.value,
                Relation::IsNot => argument != test.value,
                Relation::Masked(mask) => argument & mask == test.value,
            }
        };
        match verdict {
            Some(Verdict::Made) => libc::SECCOMP_RET_ALLOW,
            Some(Verdict::Fails(errno)) => libc::SECCOMP_RET_ERRNO | u32::from(*errno),
            Some(Verdict::IfAny(rules)) if rules.iter().any(|rule| rule.iter().all(passed)) => {
                libc::SECCOMP_RET_ALLOW
            }
            Some(Verdict::IfAny(_)) | None => REFUSED,
        }
    }

    proptest! {
        #[test]
        fn the_program_says_of_every_call_what_the_list_says(
            calls in prop::collection::btree_map(0..700_i64, verdict(), 0..500),
            args in prop::array::uniform6(0..4_u32),
        ) {
            let calls: BTreeMap<libc::c_long, Verdict> = calls;
            let program = compile(&calls, REFUSED).expect("a known machine");
            for number in (0..710).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                let listed = calls.get(&libc::c_long::from(number));
                prop_assert_eq!(outcome_here(&program, number, args), expected(listed, args));
            }
        }
    }

    #[test]
    fn numbers_of_another_machine_kill() {
        let calls = BTreeMap::from([(0, Verdict::Made)]);
        let program = compile(&calls, REFUSED).expect("a known machine");
        let other = outcome(&program, 0x4000_0003, 0, [0; 6]);
        assert_eq!(other, libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(outcome_here(&program, 0, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn neighbours_are_one_range() {
        let calls = BTreeMap::from([3, 4, 5, 9].map(|number| (number, Verdict::Made)));
        let made = Some(&Verdict::Made);
        let expected = [(0, None), (3, made), (6, None), (9, made), (10, None)];
        assert_eq!(ranges(&calls), expected);
    }
}
