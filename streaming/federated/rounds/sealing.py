"""A silo's way to take part in solves: letters say how many users come and go, rows are multiplied here."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..board import Charter
from ..sealing import Letters
from ..silo_rows import matrix_of, read_rows
from ..silo_state import write_state
from .places import is_asking, open_solve, read_if_there, solve_folder
from .silo import Member, Part, has_opened
from .terms import SolveError, Terms, read_terms


@dataclass(frozen=True)
class ByProducts:
    """What a silo says in solves, beside its letters.

    Attributes
    ----------
    letters : of the silo.
    coordinator : whose questions it answers.
    stay : seconds to wait for the next question, once there are questions.
    """

    letters: Letters
    coordinator: Ed25519PublicKey
    stay: float

    def holds(self, charter: Charter) -> bool:
        """Tell whether the rows that are being multiplied must stay as they are."""
        del charter
        return is_asking(self.letters.board, self.letters.state.solve)

    def send(self, charter: Charter) -> int:
        """Write the letters that are missing, and answer what is asked; how many letters.

        Raises
        ------
        SolveError
            The coordinator asks what it should not.
        """
        sent = self.letters.write(self.letters.state.outgoing, charter)
        number = open_solve(self.letters.board)
        content = read_if_there(solve_folder(self.letters.board, number) / "terms.json")
        if content is not None:
            terms = read_terms(content, self.coordinator)
            if self._is_mine(terms, number, charter):
                self._take_part(terms, charter)
        return sent

    def _is_mine(self, terms: Terms, number: int, charter: Charter) -> bool:
        """Tell whether this silo is in a solve of what it has summed up rows for.

        Raises
        ------
        SolveError
            The terms are of another solve, or of one that is over.
        """
        state = self.letters.state
        if terms.solve != number or number < state.solve:
            raise SolveError(
                f"the terms in the place of solve {number} are of solve {terms.solve}, and {state.party} was "
                f"in solve {state.solve} already: the board is not in order; ask the coordinator"
            )
        here = (charter.federation, state.epoch, charter.statistic)
        return (terms.federation, terms.epoch, terms.statistic) == here and state.party in terms.parties

    def _take_part(self, terms: Terms, charter: Charter) -> None:
        letters, state = self.letters, self.letters.state
        if terms.solve > state.solve:
            state.solve = terms.solve
            write_state(letters.root, state)
        me = Member(state.party, letters.key, self.coordinator)
        is_leaving = any(one.kind == "leave" for one in state.outgoing)
        as_of = state.sequence - is_leaving  # the wish to leave changes no rows
        is_asked = is_asking(letters.board, terms.solve)
        if is_asked or not has_opened(letters.board, me, terms, as_of):
            rows = matrix_of(read_rows(letters.root / state.rows), letters.board.read_catalogue(charter))
            part = Part(letters.board, me, terms, rows, as_of)
            part.stay(self.stay if is_asked else 0.0)
