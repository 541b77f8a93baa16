//! A subset of Postgres' regular expressions (the manual's "Advanced Regular Expressions") whose meaning is plain:
//! characters, classes, groups that capture nothing, alternatives, greedy repetition, `^` and `$`.
//!
//! All positions that a match can reach are followed at once, so that the longest is found, as Postgres asks for. What
//! is not in the subset is refused, errors in the expression included.

/// Repetitions beyond this are refused; Postgres' own limit is 255.
const REPEATS_MAX: u32 = 100;
/// States beyond this are refused.
const STATES_MAX: usize = 4_000;

/// An expression that has been understood.
#[derive(Debug)]
pub(super) struct Regex {
    states: Vec<State>,
    caseless: bool,
    /// It has parentheses that capture.
    pub(super) captures: bool,
    /// It speaks of classes that differ between locales beyond ASCII.
    needs_ascii: bool,
}

#[derive(Clone, Debug)]
enum State {
    One(Set, usize),
    Split(usize, usize),
    Start(usize),
    End(usize),
    Match,
}

#[derive(Clone, Debug)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

#[derive(Clone, Debug)]
enum Node {
    Empty,
    One(Set),
    Start,
    End,
    Sequence(Vec<Self>),
    Either(Vec<Self>),
    Repeat(Box<Self>, u32, Option<u32>),
}

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    captures: bool,
    needs_ascii: bool,
    depth: usize,
}

/// It is not in the subset.
#[derive(Debug)]
pub(super) struct Unknown;

impl Parser<'_> {
    fn either(&mut self) -> Result<Node, Unknown> {
        self.depth += 1;
        if self.depth > 50 {
            return Err(Unknown);
        }
        let mut branches = vec![self.sequence()?];
        while self.rest.next_if_eq(&'|').is_some() {
            branches.push(self.sequence()?);
        }
        self.depth -= 1;
        if branches.len() == 1 {
            return branches.pop().ok_or(Unknown);
        }
        Ok(Node::Either(branches))
    }

    fn sequence(&mut self) -> Result<Node, Unknown> {
        let mut parts = Vec::new();
        while let Some(next) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let atom = match next {
                '^' | '$' => {
                    // What follows them is read in ways of its own.
                    if matches!(self.rest.peek(), Some('*' | '+' | '?' | '{')) {
                        return Err(Unknown);
                    }
                    parts.push(if next == '^' { Node::Start } else { Node::End });
                    continue;
                }
                '*' | '+' | '?' | '{' => return Err(Unknown),
                '(' => self.group()?,
                '.' => Node::One(Set {
                    negated: true,
                    ranges: Vec::new(),
                }),
                '[' => Node::One(self.bracket()?),
                '\\' => Node::One(self.escape()?),
                other => Node::One(Set {
                    negated: false,
                    ranges: vec![(other, other)],
                }),
            };
            parts.push(self.repeated(atom)?);
        }
        Ok(if parts.is_empty() {
            Node::Empty
        } else {
            Node::Sequence(parts)
        })
    }

    fn group(&mut self) -> Result<Node, Unknown> {
        if self.rest.next_if_eq(&'?').is_some() {
            if self.rest.next() != Some(':') {
                return Err(Unknown);
            }
        } else {
            self.captures = true;
        }
        let inner = self.either()?;
        match (self.rest.next(), &inner) {
            (Some(')'), Node::Empty) => Err(Unknown),
            (Some(')'), _) => Ok(inner),
            _ => Err(Unknown),
        }
    }

    fn repeated(&mut self, atom: Node) -> Result<Node, Unknown> {
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.rest.next();
                let least = self.number()?;
                let most = match self.rest.next() {
                    Some('}') => return self.closed(atom, least, Some(least)),
                    Some(',') if self.rest.peek() == Some(&'}') => None,
                    Some(',') => Some(self.number()?),
                    _ => return Err(Unknown),
                };
                (least, most)
            }
            _ => return Ok(atom),
        };
        self.rest.next();
        self.closed(atom, least, most)
    }

    fn closed(&mut self, atom: Node, least: u32, most: Option<u32>) -> Result<Node, Unknown> {
        // A second one makes it lazy, or is an error.
        let again = matches!(self.rest.peek(), Some('*' | '+' | '?' | '{'));
        if again || most.is_some_and(|most| most < least) {
            return Err(Unknown);
        }
        Ok(Node::Repeat(Box::new(atom), least, most))
    }

    fn number(&mut self) -> Result<u32, Unknown> {
        let mut digits = String::new();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits
            .parse()
            .ok()
            .filter(|number| *number <= REPEATS_MAX)
            .ok_or(Unknown)
    }

    fn class(&mut self, name: &str) -> Result<Vec<(char, char)>, Unknown> {
        self.needs_ascii = true;
        Ok(match name {
            "digit" => vec![('0', '9')],
            "alpha" => vec![('a', 'z'), ('A', 'Z')],
            "alnum" => vec![('a', 'z'), ('A', 'Z'), ('0', '9')],
            "lower" => vec![('a', 'z')],
            "upper" => vec![('A', 'Z')],
            "xdigit" => vec![('a', 'f'), ('A', 'F'), ('0', '9')],
            "space" => vec![(' ', ' '), ('\t', '\r')],
            _ => return Err(Unknown),
        })
    }

    fn escape(&mut self) -> Result<Set, Unknown> {
        let next = self.rest.next().ok_or(Unknown)?;
        let (name, negated) = match next {
            'd' => ("digit", false),
            'D' => ("digit", true),
            's' => ("space", false),
            'S' => ("space", true),
            'w' => ("alnum", false),
            'W' => ("alnum", true),
            other if !other.is_alphanumeric() && other.is_ascii() => {
                return Ok(Set {
                    negated: false,
                    ranges: vec![(other, other)],
                });
            }
            _ => return Err(Unknown),
        };
        let mut ranges = self.class(name)?;
        if name == "alnum" {
            ranges.push(('_', '_'));
        }
        Ok(Set { negated, ranges })
    }

    fn bracket(&mut self) -> Result<Set, Unknown> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            let next = self.rest.next().ok_or(Unknown)?;
            match next {
                ']' if !first => return Ok(Set { negated, ranges }),
                '[' if matches!(self.rest.peek(), Some('.' | '=')) => return Err(Unknown),
                '[' if self.rest.next_if_eq(&':').is_some() => {
                    let mut name = String::new();
                    while let Some(c) = self.rest.next_if(char::is_ascii_alphabetic) {
                        name.push(c);
                    }
                    if self.rest.next() != Some(':') || self.rest.next() != Some(']') {
                        return Err(Unknown);
                    }
                    ranges.extend(self.class(&name)?);
                }
                '\\' => {
                    let set = self.escape()?;
                    let is_range = self.rest.peek() == Some(&'-');
                    if set.negated || is_range {
                        return Err(Unknown);
                    }
                    ranges.extend(set.ranges);
                }
                low => {
                    // A hyphen is itself only at the ends.
                    if low == '-' && !first && self.rest.peek() != Some(&']') {
                        return Err(Unknown);
                    }
                    let mut high = low;
                    if self.rest.next_if_eq(&'-').is_some() {
                        if self.rest.peek() == Some(&']') {
                            ranges.push(('-', '-'));
                        } else {
                            high = self.rest.next().ok_or(Unknown)?;
                        }
                    }
                    // Ranges follow code points, but only within ASCII letters and digits is that beyond doubt.
                    let is_range = high != low;
                    let plain = |c: char| c.is_ascii_alphanumeric();
                    if is_range && (!plain(low) || !plain(high) || high < low) {
                        return Err(Unknown);
                    }
                    ranges.push((low, high));
                }
            }
            first = false;
        }
    }
}

impl Set {
    fn has(&self, c: char, caseless: bool) -> bool {
        let inside = |c: char| {
            self.ranges
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&c))
        };
        let found = inside(c)
            || caseless && (inside(c.to_ascii_lowercase()) || inside(c.to_ascii_uppercase()));
        found != self.negated
    }
}

impl Regex {
    /// Understands an expression, or not.
    pub(super) fn parse(expression: &str, caseless: bool) -> Result<Self, Unknown> {
        let embedded = expression.starts_with("***")
            || expression.starts_with("(?") && !expression.starts_with("(?:");
        if embedded || caseless && !expression.is_ascii() {
            return Err(Unknown);
        }
        let mut parser = Parser {
            rest: expression.chars().peekable(),
            captures: false,
            needs_ascii: caseless,
            depth: 0,
        };
        let node = parser.either()?;
        if parser.rest.next().is_some() {
            return Err(Unknown);
        }
        let mut regex = Self {
            states: vec![State::Match],
            caseless,
            captures: parser.captures,
            needs_ascii: parser.needs_ascii,
        };
        let start = regex.build(&node, 0)?;
        let last = State::Split(start, start);
        regex.states.push(last);
        Ok(regex)
    }

    fn push(&mut self, state: State) -> Result<usize, Unknown> {
        if self.states.len() >= STATES_MAX {
            return Err(Unknown);
        }
        self.states.push(state);
        Ok(self.states.len() - 1)
    }

    /// Builds the states of a node that go on at `next`; gives the first.
    fn build(&mut self, node: &Node, next: usize) -> Result<usize, Unknown> {
        match node {
            Node::Empty => Ok(next),
            Node::One(set) => self.push(State::One(set.clone(), next)),
            Node::Start => self.push(State::Start(next)),
            Node::End => self.push(State::End(next)),
            Node::Sequence(parts) => parts
                .iter()
                .rev()
                .try_fold(next, |next, part| self.build(part, next)),
            Node::Either(branches) => {
                let mut all = None;
                for branch in branches {
                    let first = self.build(branch, next)?;
                    all = Some(match all {
                        None => first,
                        Some(others) => self.push(State::Split(others, first))?,
                    });
                }
                all.ok_or(Unknown)
            }
            Node::Repeat(inner, least, most) => {
                let mut next = next;
                match most {
                    None => {
                        let loops = self.push(State::Split(next, next))?;
                        let first = self.build(inner, loops)?;
                        if let Some(state) = self.states.get_mut(loops) {
                            *state = State::Split(first, next);
                        }
                        next = loops;
                    }
                    Some(most) => {
                        let end = next;
                        for _ in *least..*most {
                            let first = self.build(inner, next)?;
                            next = self.push(State::Split(first, end))?;
                        }
                    }
                }
                for _ in 0..*least {
                    next = self.build(inner, next)?;
                }
                Ok(next)
            }
        }
    }

    /// Whether this text is within what the expression is known for.
    pub(super) fn knows(&self, text: &str) -> bool {
        !self.needs_ascii || text.is_ascii()
    }

    /// The leftmost longest match at or behind a character, as places of characters.
    pub(super) fn find(&self, text: &[char], from: usize) -> Option<(usize, usize)> {
        (from..=text.len()).find_map(|start| Some((start, self.longest(text, start)?)))
    }

    fn longest(&self, text: &[char], start: usize) -> Option<usize> {
        let mut current = vec![false; self.states.len()];
        let mut found = None;
        self.reach(self.states.len() - 1, start, text.len(), &mut current);
        for place in start..=text.len() {
            if current.first() == Some(&true) {
                found = Some(place);
            }
            let Some(c) = text.get(place) else { break };
            let mut following = vec![false; self.states.len()];
            for (state, _) in self
                .states
                .iter()
                .zip(&current)
                .filter(|(_, reached)| **reached)
            {
                if let State::One(set, next) = state
                    && set.has(*c, self.caseless)
                {
                    self.reach(*next, place + 1, text.len(), &mut following);
                }
            }
            if !following.contains(&true) {
                break;
            }
            current = following;
        }
        found
    }

    /// Marks a state and all that follow it without a character.
    fn reach(&self, state: usize, place: usize, length: usize, reached: &mut [bool]) {
        let mut todo = vec![state];
        while let Some(state) = todo.pop() {
            match reached.get_mut(state) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            match self.states.get(state) {
                Some(State::Split(a, b)) => todo.extend([*a, *b]),
                Some(State::Start(next)) if place == 0 => todo.push(*next),
                Some(State::End(next)) if place == length => todo.push(*next),
                _ => {}
            }
        }
    }
}
