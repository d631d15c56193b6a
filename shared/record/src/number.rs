//! Numbers by their values: `1`, `1.0` and `1e0` are equal, and no digit is lost, however many there are.

/// The value of a JSON number, as bytes that sort as the numbers do and of which none are the beginning of others:
///
/// ```text
/// number      03 magnitude · zero: 02 · a negative number: 01, then its magnitude with all bits flipped
/// magnitude   exponent digits; the number is 0.DIGITS × 10^exponent, and its digits neither begin nor end with a 0
/// exponent    from -60 to 60: 1 byte, 80 + exponent · above: C0 amount · below: 40, then its amount with all bits flipped
/// amount      how many digits the exponent has: 4 bytes, big-endian; then these, in ASCII
/// digits      1 byte for two of them: 1 + 10 × the first + the second, which is 0 if there is none; then 00
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(Box<[u8]>);

const NEGATIVE: u8 = 1;
const ZERO: u8 = 2;
const POSITIVE: u8 = 3;

/// The exponents whose amount is below this are one byte.
const SHORT: u8 = 61;
/// The byte of exponent 0.
const MIDDLE: u8 = 0x80;
/// The first byte of longer exponents.
const ABOVE: u8 = 0xC0;
const BELOW: u8 = 0x40;

/// The most digits of an exponent that surely fit an `i64`, whatever the point in the number adds to it.
const FITTING: usize = 18;

impl Number {
    /// Reads a number as JSON has it. Takes time and memory in proportion to the text, not to the number.
    pub fn read(text: &str) -> Option<Self> {
        let (is_negative, unsigned) = split_sign(text, &['-']);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let (sinks, exponent) = split_sign(exponent, &['-', '+']);
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let has_needless_zero = whole.len() > 1 && whole.starts_with('0');
        if ![whole, fraction, exponent].into_iter().all(is_digits) || has_needless_zero {
            return None;
        }
        let all = [whole, fraction].concat();
        let digits = all.trim_start_matches('0');
        // The point stands in front of the first digit that is not 0.
        let moved = whole.len() as i64 - (all.len() - digits.len()) as i64;
        let digits = digits.trim_end_matches('0').as_bytes();
        if digits.is_empty() {
            return Some(Self([ZERO].into()));
        }
        let mut bytes = Vec::with_capacity(3 + digits.len().div_ceil(2));
        bytes.push(if is_negative { NEGATIVE } else { POSITIVE });
        push_exponent(&mut bytes, &add(sinks, exponent, moved));
        let of = |digit: u8| digit - b'0';
        bytes.extend(digits.chunks(2).map(|pair| 1 + 10 * of(pair[0]) + pair.get(1).map_or(0, |digit| of(*digit))));
        bytes.push(0);
        if is_negative {
            flip(&mut bytes[1..]);
        }
        Some(Self(bytes.into()))
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns whether `text` begins with a minus, and the rest behind one of `signs`.
fn split_sign<'t>(text: &'t str, signs: &[char]) -> (bool, &'t str) {
    (text.starts_with('-'), text.strip_prefix(signs).unwrap_or(text))
}

/// Adds `moved`, which is no more than a text is long, to an exponent with these `digits`. Returns whether the sum `sinks` below
/// zero, and its digits without zeros in front.
fn add(sinks: bool, digits: &str, moved: i64) -> (bool, Vec<u8>) {
    let digits = digits.trim_start_matches('0');
    if digits.len() <= FITTING {
        let amount: i64 = digits.parse().unwrap_or_default();
        let sum = moved + if sinks { -amount } else { amount };
        return (sum < 0, sum.unsigned_abs().to_string().into_bytes());
    }
    // The sum has the exponent's sign: nothing in memory is as long as the exponent is high.
    let mut digits = digits.as_bytes().to_vec();
    let mut carry = if sinks { -moved } else { moved };
    for digit in digits.iter_mut().rev() {
        if carry == 0 {
            break;
        }
        let sum = i64::from(*digit - b'0') + carry;
        *digit = b'0' + sum.rem_euclid(10) as u8;
        carry = sum.div_euclid(10);
    }
    if carry > 0 {
        digits.splice(..0, carry.to_string().into_bytes());
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    (sinks, digits)
}

fn push_exponent(bytes: &mut Vec<u8>, (sinks, digits): &(bool, Vec<u8>)) {
    let short =
        str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).filter(|amount: &u8| *amount < SHORT);
    match (short, sinks) {
        (Some(amount), false) => bytes.push(MIDDLE + amount),
        (Some(amount), true) => bytes.push(MIDDLE - amount),
        (None, _) => {
            bytes.push(if *sinks { BELOW } else { ABOVE });
            let begin = bytes.len();
            // A record is shorter than 4 GiB by far.
            bytes.extend((digits.len() as u32).to_be_bytes());
            bytes.extend(digits);
            if *sinks {
                flip(&mut bytes[begin..]);
            }
        }
    }
}

fn flip(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        Number::read(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// A database holds these bytes, so they must not change.
    #[test]
    fn the_bytes_do_not_change() {
        for (text, bytes) in [
            ("0", &[2][..]),
            ("9.5", &[3, 0x81, 96, 0]),
            ("-9.5", &[1, 0x7E, 0x9F, 0xFF]),
            ("100", &[3, 0x83, 11, 0]),
            ("0.001234", &[3, 0x7E, 13, 35, 0]),
            ("1e59", &[3, 0xBC, 11, 0]),
            ("1e60", &[3, 0xC0, 0, 0, 0, 2, b'6', b'1', 11, 0]),
            ("1e-61", &[3, 0x44, 11, 0]),
            ("1e-62", &[3, 0x40, 0xFF, 0xFF, 0xFF, 0xFD, !b'6', !b'1', 11, 0]),
        ] {
            assert_eq!(number(text).bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn spellings_of_one_number_are_equal() {
        let zeros = "0".repeat(10_000);
        let nines = "9".repeat(10_000);
        for same in [
            &["0", "-0", "0.0", "-0.000", "0e5", "0e999999999999", "-0E-999999999999999999999", "0e+0"][..],
            &["1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "1e000", "1e-00", "0.00001e5"],
            &["100", "1e2", "1E+2", "1e002", "100.00", "0.01e+4"],
            &["-9.5", "-9.50", "-95e-1", "-0.95E1"],
            &["1e400", "10e399", "0.1e401", &format!("1{}e-9600", &zeros)],
            &["1e-99999999999", "0.1e-99999999998", "100e-100000000001"],
            &["1e1000000000000000000", "0.1e1000000000000000001", "10e999999999999999999"],
            &["1e-1000000000000000000", "0.1e-999999999999999999", "10e-1000000000000000001"],
            &["0.1e100000000000000000000", "1e99999999999999999999", "10e99999999999999999998"],
            &["0.1e-99999999999999999999", "1e-100000000000000000000"],
        ] {
            for text in same {
                assert_eq!(number(text), number(same[0]), "{text:.40} {:.40}", same[0]);
            }
        }
        assert_eq!(number(&format!("0.1e1{zeros}")), number(&format!("1e{nines}")));
        assert_eq!(number(&format!("-0.{zeros}1e1{zeros}")), number(&format!("-1e{}89999", &nines[5..])));
    }

    #[test]
    fn numbers_sort_by_their_values() {
        let nines = "9".repeat(10_000);
        let sorted = [
            &format!("-1e{nines}"),
            "-1e400",
            "-1e62",
            "-1e61",
            "-9007199254740993",
            "-9007199254740992",
            "-10.1",
            "-10",
            "-9.95",
            "-9.5",
            "-1e-400",
            &format!("-1e-{nines}"),
            "-0",
            &format!("0.5e-{nines}"),
            &format!("1e-{nines}"),
            "1e-99999999999999999999",
            "1e-99999999999",
            "1e-400",
            "0.1",
            &format!("0.1{nines}"),
            "0.2",
            "1",
            "9",
            "9.05",
            "9.5",
            "9.55",
            "10",
            &nines[..59],
            "1e59",
            &nines[..60],
            "1e60",
            "1e61",
            "1e99",
            "1e100",
            &nines,
            "1e10000",
            "1e99999999999",
            "1e99999999999999999999",
            &format!("0.1e{nines}"),
            &format!("1e{nines}"),
        ];
        for (nth, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(number(a).cmp(&number(b)), nth.cmp(&other), "{a:.40} {b:.40}");
                assert!(nth == other || !number(a).bytes().starts_with(number(b).bytes()), "{a:.40} {b:.40}");
            }
        }
    }

    #[test]
    fn what_json_does_not_call_a_number_is_none() {
        for text in [
            "", "-", "+1", " 1", "1 ", "01", "-01", "00", "1_0", "1,0", ".5", "5.", "-.5", "1.e2", "1e", "e1", "1e+",
            "1e+-1", "1e1.5", "1.5.5", "1e1e1", "--1", "NaN", "Infinity", "-inf", "0x10", "\"1\"", "null", "１",
            "1e１", "½",
        ] {
            assert_eq!(Number::read(text), None, "{text}");
        }
    }

    /// Writes a number with 300 digits before and behind the point, which sort as texts.
    fn write_out(text: &str) -> (bool, String) {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let is_negative = mantissa.starts_with('-');
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = whole.trim_start_matches('-');
        let exponent: i32 = exponent.parse().unwrap();
        let all = format!("{whole}{fraction}");
        let point = (300 - whole.len() as i32 - exponent) as usize;
        let out = format!("{:0<600}", format!("{}{all}", "0".repeat(point)));
        (is_negative && out.bytes().any(|byte| byte != b'0'), out)
    }

    fn compare_written(a: &str, b: &str) -> Ordering {
        match (write_out(a), write_out(b)) {
            ((false, a), (false, b)) => a.cmp(&b),
            ((true, a), (true, b)) => b.cmp(&a),
            ((a, _), (b, _)) => b.cmp(&a),
        }
    }

    /// A number's text, with few different digits, so that many are close to each other.
    fn a_number() -> impl Strategy<Value = String> {
        "-?(0|[159][0159]{0,6})(\\.[0159]{1,6})?([eE]([+-]?0{0,2}[0-9]|-?[56][0-9]|-?1[0-9]{2}))?"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn numbers_compare_as_their_digits_written_out(a in a_number(), b in a_number()) {
            let (x, y) = (number(&a), number(&b));
            prop_assert_eq!(x.cmp(&y), compare_written(&a, &b), "{} {}", a, b);
            prop_assert!(x == y || !x.bytes().starts_with(y.bytes()), "{} {}", a, b);
        }

        /// Zeros and the exponent make up for each other, also where it has more digits than any integer.
        #[test]
        fn a_moved_point_changes_nothing(digits in "[1-9][0-9]{0,30}", zeros in 0_i128..40, exponent in any::<i128>()) {
            let exponent = exponent >> (1 + zeros * 3);
            let same = number(&format!("{digits}e{exponent}"));
            let spelled = format!("{digits}{}e{}", "0".repeat(zeros as usize), exponent - zeros);
            prop_assert_eq!(&number(&spelled), &same, "{}", spelled);
            let moved = exponent + zeros + 1 + digits.len() as i128;
            let spelled = format!("0.{}{digits}e{moved}", "0".repeat(zeros as usize + 1));
            prop_assert_eq!(&number(&spelled), &same, "{}", spelled);
            let above = format!("{digits}e{}", exponent + 1);
            prop_assert!(number(&above) > same, "{}", above);
            let below = number(&format!("-{above}"));
            prop_assert!(below < number(&format!("-{spelled}")), "{}", above);
        }

        #[test]
        fn any_text_is_read_or_refused_as_json_reads_it(text in "[-+]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][-+]?[0-9]{0,2})?[_ ]?") {
            let is_json = !text.ends_with(' ') && serde_json::from_str::<serde_json::Number>(&text).is_ok();
            prop_assert_eq!(Number::read(&text).is_some(), is_json, "{}", text);
        }
    }
}
