"""Every variant that is checked, as tiny random models of the real classes."""

from tests.families.cases import llava
from tests.helpers.family_case import FamilyCase

CASES: tuple[FamilyCase, ...] = (*llava.CASES,)
