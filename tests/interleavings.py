"""A simple model of what should be true of a state, whatever is asked of it in whatever order.

Written from docs/explanation/cycle.md, not from the engine: sets, loops over all requests, no fence table.
"""

from dataclasses import dataclass

OPEN, DONE, CANCELLED = "open", "done", "cancelled"


@dataclass
class Asked:
    """One request: its place in the order of arrival, and what became of it."""

    seq: int
    request_id: str
    kind: str
    user: int
    item: int | None = None
    state: str = OPEN
    outcome: str | None = None


class World:
    """Who is kept, who is fenced, what was answered."""

    def __init__(self, rows):
        self.rows = {(user, item): age for user, item, age in rows}  # age: "old" or "new"
        self.hidden = []  # the item lists of anonymised users
        self.asked = []
        self.admitted = set()

    def ask(self, request_id, kind, user, item=None):
        """Record a request."""
        self.asked.append(Asked(len(self.asked) + 1, request_id, kind, user, item))

    def waiting(self):
        """Return what a cycle would take up."""
        return [one for one in self.asked if one.state == OPEN and one.kind != "readmission"]

    def last_return(self, user):
        """Return the place of the last re-admission of a user that was carried out; 0 if there is none."""
        return max(
            (one.seq for one in self.asked if one.user == user and one.outcome == "readmitted"), default=0
        )

    def is_fenced(self, user):
        """Tell whether a deletion or anonymisation stands that no return has answered."""
        return bool(self._standing(user, "account") or self._standing(user, "anonymisation"))

    def _standing(self, user, kind, item=None):
        since = self.last_return(user)
        return [
            one
            for one in self.asked
            if (one.user, one.kind, one.item) == (user, kind, item)
            and one.state != CANCELLED
            and one.seq > since
        ]

    def carry_out(self):
        """Run a cycle over all that waits, then admit who comes back."""
        batch = self.waiting()
        had = {user for user, _ in self.rows}
        gone = {one.user for one in batch if one.kind == "account"}
        to_hide = {one.user for one in batch if one.kind == "anonymisation"} - gone
        for one in batch:
            one.state = DONE
            if one.kind == "account":
                one.outcome = "removed" if one.user in had else "nothing"
            elif one.kind == "anonymisation":
                one.outcome = "anonymised" if one.user in had & to_hide else "nothing"
            else:
                one.outcome = "removed" if (one.user, one.item) in self.rows else "nothing"
        pairs = {(one.user, one.item) for one in batch if one.kind == "interaction"}
        kept = {pair: age for pair, age in self.rows.items() if pair[0] not in gone and pair not in pairs}
        for user in to_hide:
            items = sorted(item for who, item in kept if who == user)
            self.hidden += [items] if items else []
        self.rows = {pair: age for pair, age in kept.items() if pair[0] not in to_hide}
        self.settle()

    def settle(self):
        """Admit everybody whose earlier requests are all done."""
        for one in self.asked:
            if one.kind != "readmission" or one.state != OPEN:
                continue
            earlier = [other for other in self.asked if other.user == one.user and other.seq < one.seq]
            if any(other.state == OPEN for other in earlier):
                continue
            since = self.last_return(one.user)
            deleted = any(
                other.kind in ("account", "anonymisation") and other.state == DONE and other.seq > since
                for other in earlier
            )
            one.state, one.outcome = DONE, "readmitted" if deleted else "nothing"
            if deleted:
                self.admitted.add(one.user)

    def admissible(self, rows):
        """Filter what a fit is given: (user, item) -> age."""
        return {(user, item): age for (user, item), age in rows.items() if self._may_come_in(user, item, age)}

    def _may_come_in(self, user, item, age):
        if self._standing(user, "interaction", item):
            return False
        accounts, hidings = self._standing(user, "account"), self._standing(user, "anonymisation")
        if accounts or any(one.state == DONE for one in hidings):
            return False
        return not (user in self.admitted and age == "old")

    def cancel(self, one):
        """Take a request back."""
        one.state = CANCELLED

    def kept(self):
        """Return the kept (user, item) pairs, and the item lists of those without a name."""
        return sorted(self.rows), sorted(self.hidden)
