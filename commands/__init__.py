"""The commands of ``recunlearn``, one file each; :mod:`recunlearn.cli` names them all."""
