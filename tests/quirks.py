"""Chat templates with the quirks of well-known reasoning models, written for the tests and for the tiny tokenizer."""

from tests.tiny import CHAT_TEMPLATE

_TURN = "{{- '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>' + '\n' -}}"

# Reasoning is stripped from all turns before the last question; the reply to it is laid out anew, and gets an empty
# think block where it has no reasoning.
STRIPPING = (
    "{%- set place = namespace(asked=-1) -%}"
    "{%- for message in messages if message['role'] == 'user' -%}{%- set place.asked = message -%}{%- endfor -%}"
    "{%- set place.past = true -%}"
    "{%- for message in messages -%}"
    "{%- set text = message['content'] -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in text else '' -%}"
    "{%- set text = text.split('</think>')[-1].lstrip('\n') -%}"
    "{%- if not place.past -%}{%- set text = '<think>\n' + thought + '\n</think>\n\n' + text -%}{%- endif -%}"
    "{%- endif -%}"
    "{%- if message == place.asked -%}{%- set place.past = false -%}{%- endif -%}" + _TURN + "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# The same, told not to think: its generation prompt holds an empty think block.
SILENCED = STRIPPING.replace("assistant\n' -}}{%- endif", "assistant\n<think>\n\n</think>\n\n' -}}{%- endif")
# A reply is written as it stands, and the generation prompt opens the reasoning.
PREFILLED = CHAT_TEMPLATE.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
# That, and of a reply everything up to its closing tag is dropped.
DROPPING = PREFILLED.replace(
    "+ message['content'] +",
    "+ (message['content'].split('</think>')[-1] if message['role'] == 'assistant' else message['content']) +",
)
# Today's date stands before the conversation, and white space around a text is trimmed.
DATED = (
    "{%- if not date is defined -%}"
    "{%- if strftime_now is defined -%}{%- set date = strftime_now('%d %b %Y') -%}"
    "{%- else -%}{%- set date = '26 Jul 2024' -%}{%- endif -%}{%- endif -%}"
    "{{- '<|im_start|>system\nToday is ' + date + '.<|im_end|>\n' -}}"
    "{%- for message in messages -%}{%- set text = message['content'] | trim -%}" + _TURN + "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# As they should be: what is trained on is what they write, where the examples have reasoning.
SOUND = {"stripping": STRIPPING, "prefilled": PREFILLED, "dated": DATED, "plain": CHAT_TEMPLATE}
