//! Links between nodes: up or down, and a number for each time that a link came up. What is under way is in the queues
//! of the receiving executors.

/// The links of the cluster.
#[derive(Debug)]
pub struct Links {
    count: usize,
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    up: bool,
    generation: u32,
    severed: bool,
}

impl Links {
    pub fn new(count: usize) -> Self {
        Links { count, links: vec![Link::default(); count * count] }
    }

    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        &mut self.links[a.min(b) * self.count + a.max(b)]
    }

    /// The number of the link that is up, if one is.
    pub fn generation(&self, a: usize, b: usize) -> Option<u32> {
        let link = self.links[a.min(b) * self.count + a.max(b)];
        link.up.then_some(link.generation)
    }

    /// True if it was up.
    pub fn cut(&mut self, a: usize, b: usize) -> bool {
        std::mem::replace(&mut self.link(a, b).up, false)
    }

    /// The number of the new link, unless it is up already or held down.
    pub fn raise(&mut self, a: usize, b: usize) -> Option<u32> {
        let link = self.link(a, b);
        if link.up || link.severed {
            return None;
        }
        link.up = true;
        link.generation += 1;
        Some(link.generation)
    }

    /// Holds a link down, or lets it come up again.
    pub fn sever(&mut self, a: usize, b: usize, severed: bool) {
        self.link(a, b).severed = severed;
    }
}
