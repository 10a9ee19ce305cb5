"""Laws of the one line: the innermost complaint stays, its key is in front, what it was tried against is gone."""

from lit_align.utils.messages import one_line

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'AlignmentModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lit_align.WIND':
        Parser key "risk":
          Expected a typing.Literal['squared', 'kl', 'nce']. Got value: absolute
    - Expected a <class 'NoneType'>
  Given value type: <class 'NestedArg'>
  Given value: NestedArg(key='risk', val='absolute')"""


def test_the_innermost_complaint_stays_behind_its_key():
    assert one_line(NESTED) == "model.risk: Expected a typing.Literal['squared', 'kl', 'nce']. Got value: absolute"


def test_a_class_that_is_not_there_is_called_so():
    message = 'Parser key "judge":\n  - Expected a path but Foo either not accessible or invalid\n'
    message += "  - Expected a dot import path string: Foo"
    assert one_line(message) == "judge: there is no class or function 'Foo'; give a known name or a dotted path"


def test_a_plain_message_is_left_as_it_is():
    assert one_line("data.train has no prompts") == "data.train has no prompts"
    assert one_line("Errors:") == "Errors:"
